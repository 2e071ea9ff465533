"""Programs that nobody here wrote and that say whether a DICOM object is sound."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OBJECTS = ("SEG", "SR", "picture", "PDF", "rectified CT", "rectified SEG")
IMAGES = ("SEG", "picture", "rectified CT", "rectified SEG")


@dataclass(frozen=True)
class Judge:
    """One program, what it can judge, and how it complains."""

    name: str
    package: str  # Debian's, or PyPI's
    program: str
    objects: tuple[str, ...]
    errors_in: Callable[[str, Path], list[str]]  # (program, file) -> complaints

    @property
    def path(self) -> str | None:
        """Return where the program is; None where it is not installed."""
        return shutil.which(self.program) or shutil.which(self.program, path=Path(sys.executable).parent)

    def judge(self, file: Path) -> list[str]:
        """Return the errors that the judge finds in a file."""
        assert self.path is not None
        if not file.is_file():
            return ["there is no such file"]  # some judges have nothing against what is not there
        return self.errors_in(self.path, file)


def _run(*words: str | Path) -> tuple[int, list[str]]:
    ended = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=250, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()


def _dciodvfy(program: str, file: Path) -> list[str]:
    return [line for line in _run(program, file)[1] if line.startswith("Error")]


def _by_exit_code(program: str, file: Path) -> list[str]:
    code, lines = _run(program, file)
    return [line for line in lines if line.startswith(("E:", "F:"))] or (
        [f"exit code {code}"] if code else []
    )


def _pixelmed(program: str, file: Path) -> list[str]:
    # The templates are one large style sheet, which Java's default limit refuses.
    limits = " ".join(f"-Djdk.xml.xpath{name}Limit=0" for name in ("ExprGrp", "ExprOp", "TotalOp"))
    code, lines = _run("env", f"JAVA_TOOL_OPTIONS={limits}", program, file)
    said = [line for line in lines if line.startswith("Error") or "Exception" in line]
    done = any("Validation Complete" in line for line in lines)
    return said if done else [*said, f"it did not end its validation (exit code {code})"]


def _dcmqi(program: str, file: Path) -> list[str]:
    with tempfile.TemporaryDirectory() as out:
        code, lines = _run(program, "--inputDICOM", file, "--outputDirectory", out, "-t", "nifti")
        masks = list(Path(out).glob("*.nii.gz"))
    said = [line for line in lines if line.startswith(("ERROR", "FATAL"))]
    return said or ([] if code == 0 and masks else [f"exit code {code}, {len(masks)} masks"])


JUDGES = (
    Judge("dciodvfy", "dicom3tools", "dciodvfy", OBJECTS, _dciodvfy),
    Judge("dcmtk dcmdump", "dcmtk", "dcmdump", OBJECTS, _by_exit_code),
    Judge("dcmtk dsrdump", "dcmtk", "dsrdump", ("SR",), _by_exit_code),
    Judge("gdcmdump", "libgdcm-tools", "gdcmdump", OBJECTS, _by_exit_code),
    Judge("gdcminfo", "libgdcm-tools", "gdcminfo", IMAGES, _by_exit_code),
    Judge("PixelMed DicomSRValidator", "pixelmed-apps", "DicomSRValidator", ("SR",), _pixelmed),
    Judge("dcmqi segimage2itkimage", "dcmqi", "segimage2itkimage", ("SEG", "rectified SEG"), _dcmqi),
)
