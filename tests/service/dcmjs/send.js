// node send.js PORT FILE…: echo, then store each file, decompressed where the node asks for it; prints the status of every answer as JSON.
const dimse = require("dcmjs-dimse");
dimse.log.setLevel("error");
const [, , port, ...files] = process.argv;
const client = new dimse.Client();
const statuses = [];
const ask = (request) => {
  request.on("response", (response) => statuses.push(response.getStatus()));
  client.addRequest(request);
};
ask(new dimse.requests.CEchoRequest());
for (const file of files) {
  const request = new dimse.requests.CStoreRequest(file);
  request.setAdditionalTransferSyntaxes([request.getDataset().getTransferSyntaxUid()]);
  ask(request);
}
client.on("networkError", (error) => { console.error(String(error)); process.exit(1); });
client.on("closed", () => console.log(JSON.stringify(statuses)));
dimse.Transcoding.initializeAsync().then(() => client.send("127.0.0.1", Number(port), "DCMJS", "ICHNOS"));
