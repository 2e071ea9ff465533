"""The virtual patient: anatomy, lesions and truth on one fine grid, before any scanner has seen it.

Conventions. All maps are torch tensors on one device and on one RAS+ grid with isotropic voxels; a map is (x,
y, z) and a stack is (c, x, y, z). "Baseline" is the moment of the first CT and of the partner MRI;
"follow-up" is `latent.followup_interval_h` later. Between the two the lesion and its mass effect differ and
nothing else; pose and scanner belong to the exams, not to the patient. The patient's millimetres are those of
the source head after its random affine: upright, x to the right ear, so -x is left.

`ichnos.simulation.simulate.simulate_patient` makes one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from ichnos.clinical.expansion import ExpansionDefinition
from ichnos.errors import InputRefused
from ichnos.volume import Affine

EXPANSION = ExpansionDefinition()  # growth by more than 33 % or 6 mL


class Tissue(IntEnum):
    """What a voxel is made of before any lesion; every code below is used by both kinds of source head."""

    AIR = 0  # outside the head
    SCALP = 1  # skin and the soft tissue right under it
    FAT = 2  # subcutaneous and orbital fat
    MUSCLE = 3  # temporalis, neck and other soft tissue of the face
    BONE = 4  # cortical bone: tables of the skull, base, petrous bone, teeth
    DIPLOE = 5  # marrow between the tables
    AIR_CELL = 6  # air inside the head: sinuses, nasal cavity, mastoid, ear canal
    MUCOSA = 7
    EYE = 8  # globe
    LENS = 9
    OPTIC_NERVE = 10
    DURA = 11  # falx, tentorium
    VENOUS_SINUS = 12  # sagittal, transverse, sigmoid, straight sinus
    ARTERY = 13
    CSF = 14  # sulci, cisterns
    VENTRICLE = 15  # lateral, third, fourth: fluid
    CHOROID = 16  # plexus inside the ventricles
    CORTEX = 17
    WHITE = 18  # cerebral white matter
    THALAMUS = 19
    CAUDATE = 20  # with accumbens
    PUTAMEN = 21
    PALLIDUM = 22
    HIPPOCAMPUS = 23  # with amygdala
    BRAINSTEM = 24  # with ventral diencephalon
    CEREBELLAR_CORTEX = 25
    CEREBELLAR_WHITE = 26


BRAIN_TISSUES: tuple[Tissue, ...] = tuple(
    Tissue(code) for code in range(Tissue.CORTEX, Tissue.CEREBELLAR_WHITE + 1)
)

SITES: tuple[str, ...] = ("putamen", "thalamus", "lobar", "cerebellum", "pons", "caudate")
SIGNS: tuple[str, ...] = ("blend", "black_hole", "island", "swirl", "fluid_level", "satellite")


@dataclass(frozen=True)
class Latent:
    """Everything that was drawn for one patient; what the image cannot show is marked hidden."""

    seed: int
    source: str  # name of the source head: "mni152" or the file's stem
    age_years: float
    sex: str  # "f" or "m"
    atrophy: float  # 0 (young) .. 1 (severe)
    has_haematoma: bool  # False: a patient without any blood; all blood maps are zero
    site: str  # one of SITES; "" without haematoma
    side: str  # "left", "right" or "midline" (pons, vermis); "" without haematoma
    onset_to_ct_h: float  # 0.5 .. 72
    followup_interval_h: float  # baseline CT to follow-up CT, hours, up to 24 as a rule
    anticoagulated: bool
    antiplatelet: bool
    earlier_bleed: bool  # a haematoma years ago
    haematocrit: float  # fraction 0.25 .. 0.55
    signs: tuple[str, ...]  # non-contrast signs that are present, from SIGNS
    irregularity: float  # standard score of the outline's irregularity
    heterogeneity: float  # standard score of the density's unrest
    old_infarct_hu: float  # of the cavity of an old infarct: fluid when ancient, denser when weeks old
    activity: float  # hidden: bleeding activity, standard score given nothing
    drawn_ich_ml: float  # volumes the law asked for; the truth volumes are those of the maps
    drawn_ivh_ml: float
    drawn_followup_ich_ml: float  # hidden at baseline
    drawn_followup_ivh_ml: float  # hidden at baseline
    drawn_phe_ml: float
    drawn_followup_phe_ml: float
    drawn_leukoaraiosis_ml: float
    operation: str = ""  # what an earlier one left: words of drain, flap, craniectomy, hygroma

    @property
    def expands(self) -> bool:
        """Say whether the drawn volumes are those of an expansion."""
        return bool(EXPANSION(self.drawn_ich_ml, self.drawn_followup_ich_ml) == 1)


@dataclass(frozen=True)
class Truth:
    """Volumes of the maps (sum of fractions, or of voxels with a degree of at least 0.5) and grades, in
    mL; NaN where not simulated.
    """

    ich_ml: float
    ivh_ml: float
    phe_ml: float
    followup_ich_ml: float
    followup_ivh_ml: float
    followup_phe_ml: float
    leukoaraiosis_ml: float
    infarct_acute_ml: float
    infarct_old_ml: float
    fazekas_periventricular: int  # 0..3
    fazekas_deep: int  # 0..3
    midline_shift_mm: float  # largest lateral displacement of the midline by the haematoma, baseline


@dataclass(frozen=True, eq=False)
class Fibres:
    """Fibre orientations for the diffusion signal, at baseline, on a coarser grid over the same field of
    view.
    """

    affine: npt.NDArray[np.float64]  # (4, 4) voxel index -> patient mm
    # (k, 3, x, y, z) float32, unit vectors in patient RAS axes, zero where the weight is 0
    orientation: torch.Tensor
    weight: torch.Tensor  # (k, x, y, z) float32, 0..1; the k weights sum to at most 1, the rest is isotropic
    names: tuple[str, ...]  # of the k bundles: slot 0 corticospinal/projection, 1 callosal, 2 association


@dataclass(frozen=True, eq=False)
class Moment:
    """The patient's maps at one time, baseline or follow-up; (x, y, z), float32 unless said otherwise."""

    # uint8 `Tissue`, displaced by the mass effect; under blood: the tissue it has infiltrated
    tissue: torch.Tensor
    ich: torch.Tensor  # fraction of blood in the tissue, 0..1
    ivh: torch.Tensor  # fraction of blood in the ventricles, 0..1; ich + ivh <= 1
    # HU of the blood itself (26..100, signs included), continued about 5 mm beyond its edge; 0 far from blood
    blood_hu: torch.Tensor
    # degree 0..1 (1: white matter about 10 HU darker); PHE target = degree >= 0.5 and not blood
    oedema: torch.Tensor
    # degree 0..1 (1: about 10 HU darker than white matter, brightest on FLAIR); target >= 0.5
    leukoaraiosis: torch.Tensor
    infarct_acute: torch.Tensor  # degree 0..1 (1: grey and white matter lose contrast, about 8 HU darker)
    infarct_old: torch.Tensor  # degree 0..1 (1: cavity, HU of CSF; 0.5: gliosis)
    # fraction of calcium 0..1 (1: about +250 HU): choroid, pineal, falx, basal ganglia, vessel walls
    calcification: torch.Tensor

    def cropped(self, box: tuple[slice, ...]) -> Moment:
        """Return the maps inside a box of voxels, views without a copy."""
        return Moment(**{field.name: getattr(self, field.name)[box] for field in fields(self)})


@dataclass(frozen=True, eq=False)
class VirtualPatient:
    """One patient: its maps at baseline and at follow-up on one grid, and what the simulation knows."""

    affine: npt.NDArray[np.float64]  # (4, 4) voxel index -> patient RAS mm; isotropic, axis-aligned
    baseline: Moment
    followup: Moment | None  # None when simulated without a follow-up
    # (2, x, y, z) corticospinal tract, left then right, membership 0..1 (target >= 0.5), at baseline
    tract: torch.Tensor
    mni_mm: torch.Tensor | None  # (3, x, y, z) MNI152 position of each voxel's tissue, mm (`mni=True`)
    fibres: Fibres | None  # where asked for (`fibres=True`)
    # oracle: P(blood, ICH or IVH, at follow-up | baseline) (`oracle_samples>0`)
    growth_probability: torch.Tensor | None
    # oracle: P(growth > 33 % or > 6 mL | everything the baseline shows); NaN without haematoma
    expansion_probability: float
    latent: Latent
    truth: Truth

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the number of voxels along x, y, z."""
        x, y, z = self.baseline.tissue.shape
        return x, y, z

    @property
    def spacing_mm(self) -> float:
        """Return the side of a voxel."""
        return float(np.linalg.norm(self.affine[:3, 0]))

    @property
    def voxel_ml(self) -> float:
        """Return the volume of a voxel in millilitres."""
        return self.spacing_mm**3 / 1000.0

    @property
    def device(self) -> torch.device:
        """Return where the maps are."""
        return self.tract.device

    @property
    def expanded(self) -> bool:
        """Say whether the parenchymal haematoma grew by more than 33 % or 6 mL until the follow-up."""
        return bool(EXPANSION(self.truth.ich_ml, self.truth.followup_ich_ml) == 1)

    def moment(self, *, followup: bool) -> Moment:
        """Return the maps at baseline or at follow-up; refuse a follow-up that was not simulated."""
        if not followup:
            return self.baseline
        if self.followup is None:
            raise InputRefused(
                "this virtual patient was simulated without a follow-up; simulate it with followup=True to"
                " scan it again"
            )
        return self.followup

    def world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return patient mm of voxel indices (..., 3)."""
        return Affine(self.affine).map(np.asarray(index, np.float64))
