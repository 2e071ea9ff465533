"""Diffusion series: dcm2niix converts them, for every vendor keeps its gradients in places of its own.

X. Li and others 2016, J Neurosci Methods 264:47.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ichnos.errors import InputRefused, require

_LONGEST_S = 900.0  # a series of some ten thousand files takes about a minute


def converted_diffusion(files: Sequence[Path], folder: Path) -> Path:
    """Convert the files of one series; return the NIfTI file, beside which .bval and .bvec lie."""
    program = require("dcm2niix", extra="diffusion", purpose="reading diffusion from DICOM")
    dicom, converted = folder / "dicom", folder / "nifti"
    dicom.mkdir(parents=True)
    converted.mkdir()
    for number, file in enumerate(files):
        shutil.copyfile(file, dicom / f"{number:06d}.dcm")
    how = ["-b", "n", "-z", "n", "-f", "series_%s", "-o", str(converted), str(dicom)]
    try:
        program.main(how, capture_output=True, timeout=_LONGEST_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputRefused(f"a diffusion series could not be converted ({type(error).__name__})") from None
    finally:
        shutil.rmtree(dicom)
    images = [image for image in converted.glob("*.nii") if image.with_suffix(".bvec").is_file()]
    if len(images) != 1:
        raise InputRefused(
            f"dcm2niix found {len(images)} images with gradients in a diffusion series where one was expected"
            " (a derived map has none); give the acquired series, or NIfTI with its .bval and .bvec"
        )
    return images[0]
