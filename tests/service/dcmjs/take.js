// node take.js COUNT: an archive that prints its port, then what it understood of each object, as JSON lines.
const net = require("net");
const dimse = require("dcmjs-dimse");
dimse.log.setLevel("error");
const { PresentationContextResult, Status, TransferSyntax } = dimse.constants;
let missing = Number(process.argv[2]);

class Archive extends dimse.Scp {
  associationRequested(association) {
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      const plain = context.getTransferSyntaxUids().includes(TransferSyntax.ExplicitVRLittleEndian);
      if (plain) context.setResult(PresentationContextResult.Accept, TransferSyntax.ExplicitVRLittleEndian);
      else context.setResult(PresentationContextResult.RejectTransferSyntaxesNotSupported);
    }
    this.sendAssociationAccept();
  }
  cStoreRequest(request, callback) {
    const all = request.getDataset().getElements();
    const labels = (all.SegmentSequence || []).map((segment) => segment.SegmentLabel);
    console.log(JSON.stringify({ uid: all.SOPInstanceUID, modality: all.Modality, labels }));
    const response = dimse.responses.CStoreResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
    missing -= 1;
  }
  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
    if (missing <= 0) setTimeout(() => process.exit(0), 100);
  }
}

const free = net.createServer().listen(0, "127.0.0.1", () => {
  const { port } = free.address();
  free.close(() => {
    new dimse.Server(Archive).listen(port);
    console.log(port);
  });
});
