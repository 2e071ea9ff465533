"""Transforms in files that other programs read: ITK (.tfm, .h5, and .mat for an affine map) and displacement
fields as NIfTI.

ITK counts in LPS mm, and so do the NIfTI warps of ITK, ANTs and greedy; ichnos in RAS mm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ichnos.errors import InputRefused, UsageError
from ichnos.registration.transform import Displacement, Transform, TransformPart
from ichnos.volume import Affine, Array, Volume

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_FLIP = np.array([-1.0, -1.0, 1.0])


def write_transform(transform: Transform, path: str | Path) -> Path:
    """Write a transform: `.tfm`, `.txt`, `.h5` hold any chain, `.mat` an affine map, `.nii.gz` a single
    displacement field.
    """
    import SimpleITK as sitk

    path = Path(path)
    if path.name.endswith((".nii", ".nii.gz")):
        sitk.WriteImage(_one_field(transform).to_sitk(), str(path))
    elif path.suffix in (".tfm", ".txt", ".h5", ".mat"):
        parts = [_to_itk(part) for part in transform.parts] or [_to_itk(Affine(np.eye(4)))]
        if path.suffix == ".mat" and not transform.is_affine:
            raise UsageError(
                f"{path.name}: .mat holds an affine map only; write this deformable transform as .h5 or its"
                " field as .nii.gz"
            )
        sitk.WriteTransform(parts[0] if len(parts) == 1 else sitk.CompositeTransform(parts), str(path))
        if path.suffix == ".h5":
            _forget_when_and_where(path)
    else:
        raise UsageError(f"{path.name}: transforms are written as .tfm, .txt, .h5, .mat or .nii.gz")
    return path


def _forget_when_and_where(path: Path) -> None:
    """Write ITK's HDF5 file anew without its times and its system's name: one transform, one file."""
    import h5py  # type: ignore[import-untyped]

    content: dict[str, tuple[Array, Any]] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                content.update({name: (item[()], item.dtype)}) if hasattr(item, "dtype") else None
            )
        )
    with h5py.File(path, "w") as file:
        for name, (value, dtype) in content.items():
            if name not in ("OSName", "OSVersion"):
                file.create_dataset(name, data=value, dtype=dtype, track_times=False)


def read_transform(path: str | Path) -> Transform:
    """Read a transform in ITK's formats, or a displacement field in NIfTI."""
    import SimpleITK as sitk

    path = Path(path)
    if not path.is_file():
        raise InputRefused(f"there is no transform {path}")
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            field = Volume.from_sitk(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
            return Transform.of(_field(field))
        return Transform.of(*_from_itk(sitk.ReadTransform(str(path))))
    except RuntimeError as error:
        raise InputRefused(
            f"{path} cannot be read as a transform; give ITK's .tfm, .h5, .mat or a warp in .nii.gz"
        ) from error


def _one_field(transform: Transform) -> Volume:
    if len(transform.parts) != 1 or not transform.displacements:
        raise UsageError(
            "a NIfTI warp holds one displacement field and nothing else; write this transform as .h5, or its"
            " field alone"
        )
    field = transform.displacements[0].field
    return field.with_array(field.array * _FLIP)


def _field(lps: Volume) -> Displacement:
    return Displacement(lps.with_array((lps.array * _FLIP).astype(np.float32)))


def _to_itk(part: TransformPart) -> Any:
    import SimpleITK as sitk

    if isinstance(part, Displacement):
        image = sitk.Cast(part.field.with_array(part.field.array * _FLIP).to_sitk(), sitk.sitkVectorFloat64)
        return sitk.DisplacementFieldTransform(image)
    matrix = _LPS @ part.matrix @ _LPS
    moved = sitk.AffineTransform(3)
    moved.SetMatrix(matrix[:3, :3].ravel().tolist())
    moved.SetTranslation(matrix[:3, 3].tolist())
    return moved


def _from_itk(moved: Any) -> tuple[TransformPart, ...]:
    import SimpleITK as sitk

    moved = moved.Downcast()
    if isinstance(moved, sitk.CompositeTransform):
        return tuple(
            part for k in range(moved.GetNumberOfTransforms()) for part in _from_itk(moved.GetNthTransform(k))
        )
    if isinstance(moved, sitk.DisplacementFieldTransform):
        return (_field(Volume.from_sitk(moved.GetDisplacementField())),)
    matrix = np.eye(4)
    zero = np.array(moved.TransformPoint((0.0, 0.0, 0.0)))
    matrix[:3, :3] = np.stack([np.array(moved.TransformPoint(e)) - zero for e in np.eye(3).tolist()], axis=1)
    matrix[:3, 3] = zero
    return (Affine(_LPS @ matrix @ _LPS),)
