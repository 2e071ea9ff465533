"""The verbs of the command line, in the order of a working day: what each does, an example, what it needs."""

from __future__ import annotations

from dataclasses import dataclass

_TORCH = (("torch", "learning"), ("safetensors", "learning"))
_PAGES = (("jinja2", "report"), ("matplotlib", "report"))
_STATISTICS = tuple((m, "evidence") for m in ("pandas", "statsmodels", "sklearn", "matplotlib", "jinja2"))


@dataclass(frozen=True)
class Verb:
    """One verb. Its function is `NAME_command` in its module, which is imported when the verb is called.

    >>> VERBS["read"].module, VERBS["read"].example.split()[:2]
    ('ichnos.cli.read', ['ichnos', 'read'])
    """

    summary: str  # under 60 characters, imperative
    example: str  # one command line
    module: str
    needs: tuple[tuple[str, str], ...] = ()  # (library, the extra that brings it)
    hidden: bool = False  # a verb of two words, shown in the help of its first


VERBS: dict[str, Verb] = {
    "inspect": Verb(
        "find the head CT and check its quality",
        "ichnos inspect FOLDER --montage slices.png",
        "ichnos.cli.inspect",
    ),
    "convert": Verb(
        "convert head CTs to de-identified NIfTI", "ichnos convert FOLDER -o nifti", "ichnos.cli.convert"
    ),
    "read": Verb(
        "read head CTs: masks, measures, DICOM SEG and SR, report",
        "ichnos read FOLDER -o readings --workers 2",
        "ichnos.cli.read",
        (*_TORCH, *_PAGES),
    ),
    "evaluate": Verb(
        "evaluate how far readings can be trusted",
        "ichnos evaluate readings COHORT -o evidence",
        "ichnos.cli.evaluate",
        _STATISTICS,
    ),
    "simulate": Verb(
        "simulate a paired, multi-centre cohort with ground truth",
        "ichnos simulate cohort --patients 20 --workers 2",
        "ichnos.cli.simulate",
        (("torch", "simulation"), ("nilearn", "simulation")),
    ),
    "transfer": Verb(
        "transfer targets from partner exams onto the CTs",
        "ichnos transfer COHORT --targets leukoaraiosis",
        "ichnos.cli.transfer",
        (("matplotlib", "report"),),
    ),
    "train": Verb(
        "train a network (own cohort; `default`, `refinement`)",
        "ichnos train haematoma COHORT -o model --minutes 60",
        "ichnos.cli.train",
        (*_TORCH, ("matplotlib", "evidence")),
    ),
    "fit": Verb(
        "fit a model's prognostic and calibration models",
        "ichnos fit MODEL --parts volumes,fazekas --workers 2",
        "ichnos.cli.learning.fit",
        (*_TORCH, *_STATISTICS),
    ),
    "stress": Verb(
        "stress-test a model on simulated scans",
        "ichnos stress MODEL -o stress --patients 40",
        "ichnos.cli.learning.stress",
        (*_TORCH, ("nilearn", "simulation")),
    ),
    "synthesize": Verb(
        "train a diffusion model and sample synthetic slices",
        "ichnos synthesize COHORT -o slices --images 64",
        "ichnos.cli.synthesize",
        (*_TORCH, ("matplotlib", "evidence")),
    ),
    "study": Verb(
        "reproduce a published study; its table beside ours",
        "ichnos study ryu2025 --simulate 0.02 -o ryu2025",
        "ichnos.cli.study",
        (*_TORCH, *_STATISTICS),
    ),
    "pair": Verb(
        "pair head CTs with the partner exams that followed",
        "ichnos pair FOLDER -o pairs",
        "ichnos.cli.audit.pair",
        _TORCH,
    ),
    "audit": Verb(
        "score stored readings by the partner exams that came",
        "ichnos audit pairs --readings readings -o audit",
        "ichnos.cli.audit.audit",
        (*_TORCH, *_PAGES, *_STATISTICS),
    ),
    "adapt": Verb(
        "recalibrate or fine-tune a model on a site's own pairs",
        "ichnos adapt default --audit audit -o adapted",
        "ichnos.cli.audit.adapt",
        (*_TORCH, *_STATISTICS),
    ),
    "pool": Verb(
        "pool the evidence of several sites",
        "ichnos pool north/audit south/audit -o pooled",
        "ichnos.cli.audit.pool",
        _STATISTICS,
    ),
    "serve": Verb(
        "receive, read and send exams next to an archive",
        "ichnos serve --home node",
        "ichnos.cli.serve",
        (*_TORCH, *_PAGES, *((m, "service") for m in ("sqlalchemy", "pynetdicom", "fastapi", "pwdlib"))),
    ),
    "models": Verb(
        "list, show, verify, export and import models", "ichnos models show default", "ichnos.cli.models"
    ),
    "config": Verb(
        "print a verb's settings file with its defaults",
        "ichnos config read > read.yaml",
        "ichnos.cli.config",
    ),
    "doctor": Verb("check this installation", "ichnos doctor", "ichnos.cli.installation.doctor"),
    "train default": Verb(
        "train the default network on virtual patients",
        "ichnos train default --minutes 60 --heads LABEL_MAPS",
        "ichnos.cli.learning.train_virtual",
        (*_TORCH, ("nilearn", "simulation")),
        hidden=True,
    ),
    "train refinement": Verb(
        "train the refinement of a model on virtual patients",
        "ichnos train refinement --minutes 60 --model default",
        "ichnos.cli.learning.train_virtual",
        (*_TORCH, ("nilearn", "simulation")),
        hidden=True,
    ),
}
