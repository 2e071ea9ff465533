"""The accelerated training: twins of what simulator and reader do, optimisers, checkpoints, batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.small_patient import SHAPE, SIDE_MM, small_patient
from ichnos.errors import IchnosError
from ichnos.inference.channels import input_channels, recentred
from ichnos.inference.coordinates import sample_atlas, smoothed_coordinates
from ichnos.learning.segmentation.losses import multi_target_loss
from ichnos.learning.virtual.accelerated.atlas_positions import atlas_at, smoothed_positions
from ichnos.learning.virtual.accelerated.densities import density_map, without_oedema
from ichnos.learning.virtual.accelerated.first_network import (
    FIRST_PREPROCESSING,
    difficulty,
    first_image,
    step_loss,
)
from ichnos.learning.virtual.accelerated.looks import (
    GRID,
    LOOK_TARGETS,
    LookBatch,
    LookStore,
    batch_of,
    on_first_grid,
    recentring,
)
from ichnos.learning.virtual.accelerated.optimisers import OPTIMISERS, Optimisers
from ichnos.learning.virtual.accelerated.phantom import (
    DEGREES,
    LABELS,
    Phantom,
    PhantomLayout,
    read_phantom,
    write_phantom,
)
from ichnos.learning.virtual.accelerated.prepared_heads import read_prepared, split_heads, write_prepared
from ichnos.learning.virtual.accelerated.production import PatientJob, Production, spec_of
from ichnos.learning.virtual.accelerated.rays import ray_effects_at_once
from ichnos.learning.virtual.accelerated.scanner import (
    Pose,
    Scanning,
    hu_weights,
    positions,
    scan_phantom,
)
from ichnos.learning.virtual.accelerated.scores import Counts, score_table
from ichnos.learning.virtual.accelerated.timed import Clock, TimedTraining, rate_share
from ichnos.learning.virtual.default_model import DEFAULT_TARGETS
from ichnos.simulation.exams.ct_physics import RAYS, ray_effects
from ichnos.simulation.exams.scanners import Kernel
from ichnos.simulation.exams.truth import fine_masks
from ichnos.simulation.heads.source import SourceHead
from ichnos.simulation.patient import Moment, Tissue


def _discs(slices: int) -> torch.Tensor:
    at = torch.arange(RAYS) - (RAYS - 1) / 2
    radius = torch.hypot(at[:, None], at[None])
    head = torch.where(radius < 30, 35.0, torch.where(radius < 33, 1200.0, -1000.0))
    return torch.stack([head + 2 * k for k in range(slices)])


def test_rays_at_once_are_the_rays_one_by_one() -> None:
    slices = _discs(3)
    one, other = (
        make(slices, pixel_mm=3.0, strength=1.0, generator=torch.Generator().manual_seed(1))
        for make in (ray_effects, ray_effects_at_once)
    )
    assert torch.allclose(one.error_hu, other.error_hu, atol=0.02)
    assert torch.allclose(one.noise, other.noise, atol=1e-3)


@pytest.mark.parametrize("shift", [-12.0, 0.0, 9.0])
def test_recentring_on_a_device_is_that_of_reading(shift: float) -> None:
    rng = np.random.default_rng(0)
    hu = np.full((40, 48, 40), -1000, np.float32)
    hu[4:36, 4:44, 4:36] = 1000
    hu[6:34, 6:42, 6:34] = rng.normal(33 + shift, 5, (28, 36, 28)).astype(np.float32)
    moved = recentred(hu, 34.0, (3.0, 3.0, 3.0))
    own = torch.from_numpy(hu) + recentring(torch.from_numpy(hu)[None], 34.0)[0]
    assert np.abs(moved - own.numpy()).max() < 0.01
    assert abs(float(np.median(moved[10:30, 10:30, 10:30])) - 34) < 0.5


def test_a_scan_without_soft_core_stays_as_it_is() -> None:
    air = np.full((20, 20, 20), -1000, np.float32)
    assert np.array_equal(recentred(air, 34.0, (3.0, 3.0, 3.0)), air)


def test_first_image_is_what_reading_shows_the_network() -> None:
    hu = np.random.default_rng(1).normal(40, 30, (24, 24, 24)).astype(np.float32)
    ours = first_image(torch.from_numpy(hu)[None])[0].numpy()
    assert np.abs(ours - input_channels(hu, FIRST_PREPROCESSING)).max() < 1e-2


def test_weights_written_before_recentring_still_read() -> None:
    stored = FIRST_PREPROCESSING.model_dump(exclude={"recentred_hu"})
    assert type(FIRST_PREPROCESSING)(**stored).recentred_hu is None


def test_slices_are_brought_to_planes_without_gain_or_loss() -> None:
    heights = np.arange(0, 60, 5.0)
    weights = hu_weights(heights, np.arange(0, 55.1, 3.0), 3.0)
    assert torch.allclose(weights.sum(1), torch.ones(len(weights)))
    ramp = weights @ torch.from_numpy(heights.astype(np.float32))
    assert torch.allclose(ramp, torch.arange(0, 55.1, 3.0), atol=1e-4)  # linear stays linear


def test_positions_are_smoothed_as_reading_smooths_them() -> None:
    rng = np.random.default_rng(2)
    shape = (24, 28, 22)
    x, y, z = np.meshgrid(*[np.linspace(-40, 40, n) for n in shape], indexing="ij")
    clean = np.stack([x, y + 0.002 * x**2, z]).astype(np.float32)
    noisy = clean + rng.normal(0, 3, clean.shape).astype(np.float32)
    brain = ((x**2 + y**2 + z**2) < 36**2).astype(np.float32)
    reading = smoothed_coordinates(noisy, brain, (3.0, 3.0, 3.0))
    ours = smoothed_positions(torch.from_numpy(noisy), torch.from_numpy(brain), 3.0).numpy()
    inside = brain > 0
    assert np.abs(reading - ours)[:, inside].max() < 0.3
    assert np.abs(ours - clean)[:, inside].mean() < 0.6 * np.abs(noisy - clean)[:, inside].mean()


def test_the_atlas_on_a_device_is_the_atlas() -> None:
    from ichnos.anatomy.tract import population

    at = np.random.default_rng(3).uniform(-60, 60, (3, 4, 5, 6)).astype(np.float32)
    at[:, 0, 0, 0] = (-26, -20, 20)
    ours = atlas_at(torch.from_numpy(at)).numpy()
    assert np.abs(ours[0] - sample_atlas(population("left"), at)).max() < 1e-3


def test_the_rate_follows_the_clock_and_ends_low() -> None:
    shares = [rate_share(done) for done in np.linspace(0, 1, 101)]
    assert max(shares) == 1.0
    assert shares[-1] == pytest.approx(0.01)
    falling = shares[50:]
    assert falling == sorted(falling, reverse=True)


def test_a_second_call_begins_where_the_first_ended() -> None:
    clock = Clock(seconds=100.0, before=0.4, until=0.8)
    clock.start()
    assert clock.done == pytest.approx(0.4, abs=1e-3)
    assert not clock.over


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_learns(name: str) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv3d(4, 1, 1))
    optimisers = Optimisers(network, name)  # type: ignore[arg-type]
    image = torch.randn(2, 1, 6, 6, 6)
    wanted = 2 * image[:, :, 1:-1, 1:-1, 1:-1]
    losses = []
    for _ in range(150):
        loss = ((network(image) - wanted) ** 2).mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimisers.step(1.0)
    assert losses[-1] < 0.8 * losses[0]


def test_a_training_goes_on_from_its_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def fresh() -> TimedTraining:
        torch.manual_seed(1)
        return TimedTraining(torch.nn.Conv3d(1, 2, 3), optimiser="adamw", device="cpu")

    first = fresh()
    for _ in range(3):
        first.update((first.network(torch.ones(1, 1, 4, 4, 4)) ** 2).mean(), 0.5)
    first.save(tmp_path / "state.safetensors", {"done": 0.25})
    second = fresh()
    facts = second.resume(tmp_path / "state.safetensors", first.average.state_dict())
    assert facts["done"] == 0.25
    assert second.step == 3
    for ours, theirs in zip(second.network.parameters(), first.network.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-3)


def test_a_gradient_that_is_not_finite_counts_as_nothing() -> None:
    training = TimedTraining(torch.nn.Linear(2, 1), optimiser="sgd", device="cpu")
    before = [p.clone() for p in training.network.parameters()]
    training.update(training.network(torch.full((1, 2), float("inf"))).sum() * float("nan"), 0.5)
    assert all(torch.allclose(a, b) for a, b in zip(before, training.network.parameters(), strict=True))


def test_hard_looks_are_drawn_more_often() -> None:
    store = LookStore(2, "cpu", to_hu=34.0)
    store = _full(store, 20)
    store.difficulty[:] = 0.1
    store.difficulty[:2] = 0.9
    rng = np.random.default_rng(0)
    drawn = np.concatenate([store.pick(4, rng) for _ in range(300)])
    assert (drawn < 2).mean() > 0.15  # evenly it would be 0.1


def test_looks_hold_the_default_targets_in_their_order() -> None:
    masks = tuple(target.name for target in DEFAULT_TARGETS if target.kind == "mask")
    assert masks == LOOK_TARGETS


def _full(store: LookStore, size: int) -> LookStore:
    """Make a store believe that it is full, without the memory of whole heads."""
    store.capacity = store.size = size
    store.difficulty = np.ones(size)
    return store


def test_mirrored_batches_exchange_the_sides() -> None:
    store = LookStore(2, "cpu", to_hu=34.0)
    store.size = 2
    left, right = (_channel("tract_left"), _channel("tract_right"))
    store.degrees[:, left, :20] = 255
    store.degrees[:, 0] = 255
    store.mni[:, 0] = -0.5
    store.mni[:, 0, 32:] = 0.5
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        batch = batch_of(store, np.array([0, 1]), (64, 80, 64), rng, torch.Generator().manual_seed(0))
        side = "left" if batch.truth[0, left].any() else "right"
        seen.add(side)
        other = right if side == "left" else left
        assert not batch.truth[0, other].any()
        assert float(batch.mni[0, 0, 0, 0, 0]) == -0.5  # -x stays the patient's left
    assert seen == {"left", "right"}


def _channel(name: str) -> int:
    """Return a target's channel."""
    return LOOK_TARGETS.index(name)


def _ball_phantom() -> Phantom:
    """A skull with a brain in it, a cube of blood on its left and the positions of its voxels."""
    spacing = 3.0
    layout = PhantomLayout(spacing)
    axes = [(torch.arange(n) - (n - 1) / 2) * spacing for n in layout.shape]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    radius = torch.sqrt(x**2 + y**2 + z**2)
    tissue = torch.full(layout.shape, int(Tissue.AIR), dtype=torch.uint8)
    tissue[radius < 75] = int(Tissue.BONE)
    tissue[radius < 66] = int(Tissue.WHITE)
    blood = ((x + 30).abs() < 12) & (y.abs() < 12) & (z.abs() < 12)
    nothing = torch.zeros(layout.shape)
    labels = (tissue == int(Tissue.WHITE)) * 1 + blood * (1 << LABELS.index("ich"))
    coarse = torch.stack([x, y, z])[:, ::4, ::4, ::4].float()
    maps = {name: nothing for name in DEGREES} | {"ich": blood.float()}
    moment = Moment(tissue=tissue, blood_hu=torch.full(layout.shape, 65.0), **maps)
    return Phantom(spacing, moment, labels.float(), coarse, 0.42, True, 9.0, 0)


def _quiet(heights_mm: np.ndarray, thickness_mm: float) -> Scanning:
    return Scanning(heights_mm, thickness_mm, Kernel("", 0.6), 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(("step", "mirrored"), [(3.0, False), (5.0, True)])
def test_a_quiet_scan_shows_what_is_there(step: float, mirrored: bool) -> None:
    phantom = _ball_phantom()
    turn = np.eye(3) * ([-1, 1, 1] if mirrored else [1, 1, 1])
    middle = (np.array(phantom.labels.shape) - 1) / 2 * phantom.spacing_mm
    pose = Pose(turn, middle, -80, 80, mirrored)
    generator = torch.Generator().manual_seed(0)
    hu = density_map(phantom, np.random.default_rng(8), generator, wild=False)
    scanning = _quiet(np.arange(-80, 80.1, step), step)
    slices = scan_phantom(phantom, hu, pose, scanning, generator=generator, rng=np.random.default_rng(0))
    image, degrees = on_first_grid(slices)
    blood = degrees[LABELS.index("ich")]
    true_voxels = float(phantom.maps.ich.sum())
    assert float(blood.sum()) == pytest.approx(true_voxels, rel=0.25)
    assert float(degrees[0].sum()) * 0.027 == pytest.approx(4 / 3 * np.pi * 6.6**3, rel=0.04)
    assert float(image[blood > 0.99].median()) == pytest.approx(65, abs=4)
    assert float(image[0, 0, 0]) < -900
    half = GRID[0] // 2
    assert bool((blood[half:] if mirrored else blood[:half]).any())
    assert not bool((blood[: half - 2] if mirrored else blood[half + 2 :]).any())


def test_positions_follow_the_pose() -> None:
    phantom = _ball_phantom()
    middle = (np.array(phantom.labels.shape) - 1) / 2 * phantom.spacing_mm
    axis = torch.tensor([-30.0, 0.0, 30.0])
    for turn, mirrored in ((np.eye(3), False), (np.eye(3) * [-1, 1, 1], True)):
        mni = positions(phantom, Pose(turn, middle, -80, 80, mirrored), (axis, axis, axis))
        assert torch.allclose(mni[0, 1, :, 1], axis, atol=0.5)  # a mirrored head's left is again at the left
        assert torch.allclose(mni[1, 1, 1], axis, atol=0.5)
        assert torch.allclose(mni[2, :, 1, 1], axis, atol=0.5)


def test_random_densities_keep_the_shapes_and_the_seed() -> None:
    phantom = _ball_phantom()
    first, again, other = (
        density_map(phantom, np.random.default_rng(s), torch.Generator().manual_seed(s), wild=True)
        for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first[phantom.maps.tissue == int(Tissue.AIR)].max()) < -900


def test_oedema_is_left_out_with_its_label() -> None:
    phantom = _ball_phantom()
    labels = phantom.labels + (1 << LABELS.index("phe"))
    phantom = replace(phantom, labels=labels)
    drawn = [without_oedema(phantom, np.random.default_rng(s)) for s in range(40)]
    bits = [bool((p.labels.to(torch.int32) >> LABELS.index("phe") & 1).any()) for p in drawn]
    assert 0 < bits.count(False) < 20


def test_a_phantom_survives_its_buffer() -> None:
    patient = replace(small_patient(fibres=False), mni_mm=torch.zeros(3, *SHAPE))
    layout = PhantomLayout(SIDE_MM)
    buffer = memoryview(bytearray(layout.size))
    write_phantom(patient, 3, layout, buffer)
    phantom = read_phantom(buffer, layout, "cpu")
    assert (phantom.number, phantom.spacing_mm, phantom.has_haematoma) == (3, SIDE_MM, True)
    bits = phantom.labels.to(torch.int32)
    for label, mask in (("brain", "brain"), ("ich", "ich"), ("phe", "phe"), ("followup", "ich_followup")):
        shown = int((bits >> LABELS.index(label) & 1).sum())
        assert shown == pytest.approx(int(fine_masks(patient, [mask]).sum()), rel=0.02)
    assert float(phantom.maps.ich.sum()) == pytest.approx(float(patient.baseline.ich.sum()), rel=0.01)


def test_specifications_follow_from_numbers() -> None:
    specs = [spec_of(0, n, spacing_mm=1.5, followup=True) for n in range(200)]
    assert specs == [spec_of(0, n, spacing_mm=1.5, followup=True) for n in range(200)]
    assert len({seed for seed, _ in specs}) == 200
    bled = np.mean([spec.haematoma_probability for _, spec in specs])
    assert 0.5 < bled < 0.8
    assert all(not spec.followup for _, spec in specs if not spec.haematoma_probability)


def test_a_prepared_head_is_the_head(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*[np.linspace(-40, 40, n) for n in (20, 24, 22)], indexing="ij")
    head = SourceHead(
        name="small",
        codes=torch.from_numpy(rng.integers(0, 90, (40, 48, 44)).astype(np.uint8)),
        affine=np.eye(4),
        features=torch.from_numpy(np.stack([x, y]).astype(np.float32)),
        feature_affine=np.diag([2.0, 2.0, 2.0, 1.0]),
        mni_mm=torch.from_numpy(np.stack([x + 3, y, z]).astype(np.float32)),
    )
    again = read_prepared(write_prepared(head, tmp_path))
    assert again.name == "small"
    assert torch.equal(head.codes, again.codes)
    assert float((head.features - again.features).abs().max()) <= 0.06
    assert float((head.mni_mm - again.mni_mm).abs().max()) < 0.2


def test_held_out_heads_are_the_last_label_maps() -> None:
    names = ["mni152", "training_01", "training_02", "training_03"]
    empty = torch.zeros(1)
    heads = [SourceHead(n, empty, np.eye(4), empty, np.eye(4), empty) for n in names]
    trained, held_out = split_heads(heads, 1)
    assert [head.name for head in trained] == names[:3]
    assert [head.name for head in held_out] == names[3:]


def test_thresholds_are_where_dice_is_greatest() -> None:
    counts = Counts(("ICH",), 1.0)
    truth = torch.tensor([[True] * 6 + [False] * 6])
    share = torch.tensor([[0.7] * 6 + [0.32] * 6])
    counts.add(share, truth)
    threshold = counts.thresholds()["ICH"]
    assert 0.32 < threshold < 0.7
    (score,) = counts.scores({"ICH": threshold})
    assert score.median_dice == 1.0
    assert score.bias_ml == 0.0
    assert "| ICH |" in score_table([score])


def test_the_loss_of_a_step_is_that_of_every_training() -> None:
    generator = torch.Generator().manual_seed(4)
    shape = (2, len(LOOK_TARGETS), 6, 6, 6)
    truth = torch.rand(shape, generator=generator)
    mni = torch.randn((2, 3, 6, 6, 6), generator=generator)
    mni[:, :, :2] = float("nan")
    batch = LookBatch(torch.zeros(2, 6, 6, 6), truth, mni)
    logits = torch.randn((2, len(LOOK_TARGETS) + 3, 6, 6, 6), generator=generator).requires_grad_()
    known = torch.ones(2, len(LOOK_TARGETS) + 3)
    usual = multi_target_loss(
        logits, torch.cat([truth, mni], 1), known, coordinates=(10, 11, 12), sparse_weight=0.5
    )
    alone = step_loss(logits, batch, 0.0)  # at the start nothing is asked of the two scans of a head together
    assert float(alone.detach()) > float(usual.detach())  # the focal term comes on top
    slopes = [torch.autograd.grad(loss, logits)[0] for loss in (usual, alone)]
    other = [
        k
        for k in range(len(LOOK_TARGETS) + 3)
        if k not in (LOOK_TARGETS.index("IVH"), LOOK_TARGETS.index("PHE"))
    ]
    assert torch.allclose(slopes[0][:, other], slopes[1][:, other], atol=1e-7)


def test_a_look_learnt_well_is_easy() -> None:
    truth = torch.zeros(2, len(LOOK_TARGETS), 8, 8, 8)
    truth[:, LOOK_TARGETS.index("ICH"), 2:6, 2:6, 2:6] = 1
    logits = torch.where(truth > 0, 9.0, -9.0)
    logits[1, LOOK_TARGETS.index("ICH")] = -9.0
    easy, hard = difficulty(logits, truth).tolist()
    assert easy < 0.01 < hard


def test_a_run_goes_on_without_few_patients_and_ends_without_many() -> None:
    production = object.__new__(Production)
    production.failures, production._came = [], 300
    for number in range(30):
        production.failed(PatientJob(number, 1.5), "no brain")
    with pytest.raises(IchnosError, match="patient 30: no brain"):
        production.failed(PatientJob(30, 1.5), "no brain")
