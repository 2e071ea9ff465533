"""A head CT of a virtual patient: pose, slices, partial volume, blur, noise, beam hardening, table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ichnos.scan import Acquisition
from ichnos.simulation.exams.ct_physics import RAYS, ray_effects, reconstruct, textured_noise
from ichnos.simulation.exams.pose import HeadMotion, pull, rigid, slice_stack_affine
from ichnos.simulation.exams.scanners import CtProtocol
from ichnos.simulation.exams.tissue_hu import hounsfield
from ichnos.simulation.patient import BRAIN_TISSUES, Moment, Tissue, VirtualPatient
from ichnos.volume import Affine, Floats, Volume

COARSE_PIXEL_MM = 0.9  # slices are sampled at about this pitch: a patient of 1 mm voxels holds nothing finer
SAMPLE_STEP_MM = 1.25  # distance of the samples through a thick slice
_DEGREES_PER_MM = (1.0, 1.0, 0.7)  # of a restless head: the last turns, as far as the others shift


@dataclass(frozen=True, eq=False)
class CtExam:
    """A simulated head CT with what only the simulation knows."""

    volume: Volume  # HU, int16, RAS
    protocol: CtProtocol
    patient_from_exam: Affine  # exam mm -> patient mm, of a head at rest
    motion: HeadMotion | None = None  # None: it lay still

    @property
    def acquisition(self) -> Acquisition:
        """Return what a file's header would tell of this exam."""
        p = self.protocol
        return Acquisition(
            manufacturer=p.scanner.vendor,
            scanner=p.scanner.model,
            kernel=p.kernel.name,
            tube_kv=p.scanner.tube_kv,
            slice_thickness_mm=p.thickness_mm,
            slice_step_mm=(p.step_mm,),
            tilt_deg=p.tilt_deg,
            series_description=f"HEAD {p.thickness_mm:g} mm",
        )


@dataclass(frozen=True)
class Plan:
    """Where the slices of an exam lie."""

    affine: Floats  # (4, 4) voxel index -> exam mm
    shape: tuple[int, int, int]
    patient_from_exam: Affine


def simulate_ct(
    patient: VirtualPatient,
    protocol: CtProtocol,
    *,
    generator: torch.Generator,
    followup: bool = False,
    sheared: bool = False,
) -> CtExam:
    """Scan a patient at baseline or at follow-up; noise and tissue texture come from the generator, which
    sits on the patient's device.

    `sheared` stacks the slices of a tilted gantry along the table, as scanners do, instead of along their
    normal.
    """
    plan = plan_ct(patient, protocol, followup=followup, sheared=sheared)
    box, affine = _seen(patient, plan)
    hu = _patient_hu(patient, patient.moment(followup=followup).cropped(box), protocol, generator)
    motion = _drawn_motion(plan.shape[2], _samples(protocol), protocol.motion_mm, generator)
    slices = sampled_slices(hu, affine, plan, protocol, motion)
    pixels = scanner_output(slices, protocol, generator=generator)
    array = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return CtExam(Volume(array, plan.affine), protocol, plan.patient_from_exam, motion)


def _patient_hu(
    patient: VirtualPatient, seen: Moment, protocol: CtProtocol, generator: torch.Generator
) -> torch.Tensor:
    """Return the HU of what the slices can see, with the clip that the protocol may ask for."""
    hu = hounsfield(
        seen,
        haematocrit=patient.latent.haematocrit,
        spacing_mm=patient.spacing_mm,
        generator=generator,
        old_infarct_hu=patient.latent.old_infarct_hu,
    )
    return _with_metal(hu, seen.tissue, generator=generator) if protocol.metal else hu


def _samples(protocol: CtProtocol) -> int:
    """Return the number of samples through a slice."""
    return max(1, round(protocol.thickness_mm / SAMPLE_STEP_MM))


def plan_ct(
    patient: VirtualPatient, protocol: CtProtocol, *, followup: bool = False, sheared: bool = False
) -> Plan:
    """Lay the slices as a technician does: head near the middle, from below the skull base to above the
    vertex.
    """
    tissue = (patient.followup if followup and patient.followup else patient.baseline).tissue
    brain_mm = _points(tissue, patient.affine, low=int(min(BRAIN_TISSUES)))
    head_mm = _points(tissue, patient.affine, low=int(Tissue.SCALP))
    centre = (brain_mm.min(0) + brain_mm.max(0)) / 2
    exam_from_patient = rigid(rotation_deg=protocol.pose_deg, about_mm=centre, shift_mm=-centre)
    brain, head = exam_from_patient.map(brain_mm), exam_from_patient.map(head_mm)
    middle, length_mm = _stack(brain, head, protocol)
    shape = (protocol.matrix, protocol.matrix, max(1, round(length_mm / protocol.step_mm)))
    affine = slice_stack_affine(
        centre_mm=middle,
        shape=shape,
        pixel_mm=protocol.pixel_mm,
        step_mm=protocol.step_mm,
        tilt_deg=protocol.tilt_deg,
        sheared=sheared,
    )
    return Plan(affine, shape, ~exam_from_patient)


def _stack(brain: Floats, head: Floats, protocol: CtProtocol) -> tuple[Floats, float]:
    """Return the middle (3,) and the length of the stack, mm, around points of brain and head (n, 3)."""
    tilt = np.deg2rad(protocol.tilt_deg)
    normal = np.array([0, math.sin(tilt), math.cos(tilt)])
    heights = brain @ normal
    low, high = heights.min() - protocol.cover_mm[0], heights.max() + protocol.cover_mm[1]
    head = head[(head @ normal > low) & (head @ normal < high)]
    middle = (head.min(0) + head.max(0)) / 2
    middle[:2] -= np.array(protocol.shift_mm)
    middle += normal * ((low + high) / 2 - middle @ normal)
    return middle, float(high - low)


def _seen(patient: VirtualPatient, plan: Plan) -> tuple[tuple[slice, ...], Floats]:
    """Return the box of patient voxels that the slices can see (head to foot only), and its affine."""
    reach_mm = 115.0  # half the width and depth of a head about the middle of the stack
    width = min(plan.shape[0] / 2, reach_mm / float(np.linalg.norm(plan.affine[:3, 0])))
    middle = (np.array(plan.shape[:2]) - 1) / 2
    corners = [
        (middle[0] + x * width, middle[1] + y * width, z)
        for x in (-1, 1)
        for y in (-1, 1)
        for z in (-1, plan.shape[2])
    ]
    index = (
        np.linalg.inv(patient.affine)
        @ plan.patient_from_exam.matrix
        @ plan.affine
        @ np.c_[np.array(corners), np.ones(8)].T
    )
    low = int(np.clip(np.floor(index[2].min()) - 2, 0, patient.shape[2] - 2))
    high = int(np.clip(np.ceil(index[2].max()) + 3, low + 2, patient.shape[2]))
    affine = np.array(patient.affine)
    affine[:3, 3] = patient.world((0, 0, low))
    return (slice(None), slice(None), slice(low, high)), affine


def _points(tissue: torch.Tensor, affine: Floats, *, low: int) -> Floats:
    """Return patient mm of every sixth voxel whose tissue code is at least `low`."""
    index = (tissue[::6, ::6, ::6] >= low).nonzero().cpu().numpy() * 6.0
    return Affine(affine).map(index)


def sampled_slices(
    hu: torch.Tensor, affine: Floats, plan: Plan, protocol: CtProtocol, motion: HeadMotion | None
) -> torch.Tensor:
    """Integrate the HU map over each slice's thickness, on a coarse in-plane grid: (s, m, m).

    A restless head lies elsewhere in every slice, and moves while one slice is being made.
    """
    side, samples = _coarse_side(protocol), _samples(protocol)
    index_from_exam = np.linalg.inv(affine) @ plan.patient_from_exam.matrix
    slices = []
    for k in range(plan.shape[2]):
        if motion is None:
            whole = index_from_exam @ plan.affine @ _through_slice(protocol, k, 0)
            slices.append(pull(hu[None], whole, (side, side, samples))[0].mean(2))
            continue
        at = [
            index_from_exam @ motion.at(k, (j + 0.5) / samples) @ plan.affine @ _through_slice(protocol, k, j)
            for j in range(samples)
        ]
        slices.append(torch.cat([pull(hu[None], one, (side, side, 1))[0] for one in at], 2).mean(2))
    return torch.stack(slices)


def _through_slice(protocol: CtProtocol, k: int, first: int) -> Floats:
    """Return the map (4, 4) from coarse pixels and samples through slice k, from the `first` one on, to voxel
    indices of the exam.
    """
    finer, samples = protocol.matrix / _coarse_side(protocol), _samples(protocol)
    within = ((np.arange(samples) + 0.5) / samples - 0.5) * protocol.thickness_mm / protocol.step_mm
    step = np.diag([finer, finer, protocol.thickness_mm / protocol.step_mm / samples, 1.0])
    step[:2, 3] = (finer - 1) / 2
    step[2, 3] = k + within[first]
    return step


def _coarse_side(protocol: CtProtocol) -> int:
    return min(protocol.matrix, 2 * math.ceil(protocol.field_of_view_mm / COARSE_PIXEL_MM / 2))


def _drawn_motion(
    slices: int, samples: int, motion_mm: float, generator: torch.Generator
) -> HeadMotion | None:
    """Draw where a restless head lies in each sample of each slice; None for one that lay still."""
    if motion_mm == 0:
        return None
    steps = torch.randn(slices * samples, 3, generator=generator, device=generator.device).cpu().numpy()
    jerks = steps * (np.abs(steps[:, :1]) > 2.0) * motion_mm / 2.0
    walk = np.cumsum(jerks, axis=0)
    # at rest where most of it lay
    away = walk - np.median(walk[len(walk) // 4 : len(walk) - len(walk) // 4], axis=0)
    away = np.clip(away, -motion_mm, motion_mm).reshape(slices, samples, 3) * _DEGREES_PER_MM
    return HeadMotion(np.asarray(away, np.float64))


def scanner_output(slices: torch.Tensor, protocol: CtProtocol, *, generator: torch.Generator) -> torch.Tensor:
    """Turn ideal slices (s, m, m) into what the scanner writes: int16 HU (s, matrix, matrix)."""
    if protocol.table:
        slices = torch.maximum(slices, _holder(slices, protocol.field_of_view_mm))
    rays = ray_effects(
        _ray_slices(slices, protocol),
        pixel_mm=protocol.field_of_view_mm / RAYS,
        strength=protocol.beam_hardening,
        generator=generator,
        metal=protocol.metal,
        cupping_hu=protocol.cupping_hu,
        streaks=protocol.streaks,
    )
    count, matrix = slices.shape[0], protocol.matrix
    error, level = (_spread(part, count, matrix) for part in (rays.error_hu, rays.noise))
    kernel, pixel_mm = protocol.kernel, protocol.pixel_mm
    image = reconstruct(slices, kernel=kernel, matrix=matrix, pixel_mm=pixel_mm)
    noise = textured_noise(count, kernel=kernel, matrix=matrix, pixel_mm=pixel_mm, generator=generator)
    image = image * protocol.scale + protocol.offset_hu
    image += error
    image += noise.mul_(level).mul_(protocol.noise_hu)
    return _stored(image, protocol)


def _ray_slices(slices: torch.Tensor, protocol: CtProtocol) -> torch.Tensor:
    """Gather thin slices to about 4 mm and shrink them to the grid of the rays."""
    together = max(1, round(4.0 / protocol.step_mm))
    count = slices.shape[0]
    groups = math.ceil(count / together)
    padded = functional.pad(slices.permute(1, 2, 0), (0, groups * together - count), mode="replicate")
    gathered = padded.reshape(*padded.shape[:2], groups, together).mean(3).permute(2, 0, 1)
    return functional.interpolate(gathered[None], size=(RAYS, RAYS), mode="area")[0]


def _spread(coarse: torch.Tensor, count: int, matrix: int) -> torch.Tensor:
    """Bring maps on the grid of the rays back to every slice and pixel."""
    fine = functional.interpolate(coarse[None], size=(matrix, matrix), mode="bilinear", align_corners=False)[
        0
    ]
    if fine.shape[0] == count:
        return fine
    together = math.ceil(count / fine.shape[0])
    return fine.repeat_interleave(together, dim=0)[:count]


def _stored(image: torch.Tensor, protocol: CtProtocol) -> torch.Tensor:
    """Round and clip as the file format does, and blank what lies outside the reconstructed circle."""
    side = torch.arange(protocol.matrix, device=image.device) - (protocol.matrix - 1) / 2
    outside = torch.hypot(side[:, None], side[None]) > protocol.matrix / 2
    image = image.clamp(-1024, 3071).round()
    image[:, outside] = float(protocol.scanner.padding_hu)
    return image.to(torch.int16)


def _holder(slices: torch.Tensor, field_of_view_mm: float) -> torch.Tensor:
    """Return the head holder in cross-section (m, m): a thin curved shell just under and beside the head,
    HU; -1000 elsewhere.
    """
    m = slices.shape[-1]
    mm = (torch.arange(m, device=slices.device) - (m - 1) / 2) * field_of_view_mm / m
    solid = (slices > -300.0).sum(dim=(0, 1)) > 10  # rows that the head reaches; its back comes first
    back_mm = mm[solid.to(torch.uint8).argmax()]
    x, y = mm[:, None], mm[None]
    radius_mm, gap_mm = 106.0, 7.0
    middle = back_mm - gap_mm + radius_mm
    wall = torch.exp(-(((torch.hypot(x, y - middle) - radius_mm) / 1.3) ** 2))
    beside = torch.sigmoid((middle - 25.0 - y) / 12.0)
    under = torch.sigmoid((back_mm + 4.0 - y) / 4.0)
    return -1000.0 + wall * (950.0 * beside + 500.0 * under)


def _with_metal(hu: torch.Tensor, tissue: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Put a clip of a few millimetres near the base of the brain."""
    fluid = (tissue == Tissue.CSF).nonzero()
    low = fluid[fluid[:, 2] < fluid[:, 2].float().quantile(0.15)] if len(fluid) < 10_000_000 else fluid
    at = low[int(torch.randint(len(low), (1,), generator=generator, device=generator.device))]
    out = hu.clone()
    x, y, z = (int(v) for v in at)
    out[max(0, x - 2) : x + 3, max(0, y - 1) : y + 2, max(0, z - 1) : z + 2] = 9000.0
    return out
