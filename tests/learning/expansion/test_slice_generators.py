"""Generators of slices: who they are trained on, what their folder says, what they may sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ichnos import networks
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.leakage import read_training
from ichnos.learning.expansion.generator_store import (
    ledger_of,
    load_generator,
    read_pictures,
    save_generator,
    write_ledger,
    write_pictures,
)
from ichnos.learning.expansion.settings import GeneratorKind, GeneratorSettings, small_generator
from ichnos.learning.expansion.slice_generator import (
    Picture,
    noise_schedule,
    sample_pictures,
    taught,
    train_generator,
    training_fingerprint,
)
from ichnos.learning.loop.settings import changed

TINY = {
    "size": 16,
    "ch_mult": (1,),
    "embed_dims": (32, 32, 32),
    "noise_steps": 20,
    "batch": 4,
    "steps": 1,
    "sampling_steps": 2,
}
KINDS: tuple[GeneratorKind, ...] = ("published", "conditional")


def slices(n: int) -> list[Picture]:
    """Return slices of n patients, every other one expanded."""
    rng = np.random.default_rng(n)
    return [
        Picture(
            f"p{k}-0",
            rng.uniform(-1, 1, (16, 16)).astype(np.float32),
            np.ones((16, 16), np.float32),
            float(k % 2),
            f"p{k}",
        )
        for k in range(n)
    ]


def untrained(settings: GeneratorSettings) -> networks.nn.Module:
    spec = settings.network()
    return networks.build(spec.name, **spec.arguments)


def test_the_published_kind_is_taught_expanded_haematomas_alone() -> None:
    own = slices(6)
    assert [p.patient for p in taught(own, "published")] == ["p1", "p3", "p5"]
    assert taught(own, "conditional") == own
    assert taught([], "published") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_of_noise_ends_with_little_signal(kind: GeneratorKind) -> None:
    schedule = noise_schedule(small_generator(kind, noise_steps=200))
    signal = schedule.alphas_bar.numpy()
    assert signal.shape == (200,)
    assert (np.diff(signal) < 0).all()
    assert signal[0] > 0.9 > signal[-1]


def test_too_few_slices_are_counted_in_the_refusal(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="1 slices were given; 2 are the least"):
        train_generator(slices(1), small_generator("conditional", **TINY), tmp_path)
    with pytest.raises(InputRefused, match="1 slices of expanded haematomas were given"):
        train_generator(slices(2), small_generator("published", **TINY), tmp_path)
    assert not any(tmp_path.iterdir()), "nothing is begun"


def test_a_generator_is_not_trained_on_what_one_has_sampled(tmp_path: Path) -> None:
    mixed = [*slices(3), replace(slices(1)[0], patient="", sources=("p0",))]
    with pytest.raises(InputRefused, match="images of patients only"):
        train_generator(mixed, small_generator("conditional", **TINY), tmp_path)


def test_a_generator_without_other_outcomes_cannot_sample_them() -> None:
    settings = small_generator("published", **TINY)
    drawn = sample_pictures(untrained(settings), settings, 1, trained_on=slices(4), outcome=0.0, seed=0)
    with pytest.raises(UsageError, match="expanded haematomas only"):
        next(drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_name_their_sources_and_the_same_seed_gives_the_same(kind: GeneratorKind) -> None:
    settings, own = small_generator(kind, **TINY), slices(6)
    network = untrained(settings)
    first, again = (list(sample_pictures(network, settings, 5, trained_on=own, seed=3)) for _ in range(2))
    assert [p.name for p in first] == [f"made-{kind}-3-{k:05d}" for k in range(5)]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    fewer = list(sample_pictures(network, settings, 4, trained_on=own, seed=3))  # a whole batch
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, fewer, strict=False))
    assert all(p.image.shape == (16, 16) and np.isfinite(p.image).all() for p in first)
    assert all(p.patient == "" for p in first)
    expected = ("p1", "p3", "p5") if kind == "published" else tuple(f"p{k}" for k in range(6))
    assert {p.sources for p in first} == {expected}
    assert all(p.mask.any() == (kind == "conditional") for p in first)


def test_guidance_changes_what_is_sampled_under_a_condition() -> None:
    settings, own = small_generator("conditional", **TINY), slices(4)
    network = untrained(settings)
    plain, guided = (
        next(sample_pictures(network, settings, 1, trained_on=own, seed=0, guidance=g)) for g in (1.0, 4.0)
    )
    assert not np.array_equal(plain.image, guided.image)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_back_the_settings_and_says_who_is_behind_it(
    kind: GeneratorKind, tmp_path: Path
) -> None:
    settings, own = small_generator(kind, **TINY), slices(6)
    model = save_generator(
        untrained(settings), settings, tmp_path / "m", trained_on=own, steps=7, command="a test"
    )
    network, back = load_generator(tmp_path / "m")
    assert back.network() == settings.network()
    assert (back.kind, back.size, back.loop.steps) == (kind, 16, 7)
    assert sum(p.numel() for p in network.parameters()) > 0
    assert model.manifest.provenance.hardware == "CPU"
    told = " ".join(model.manifest.limits)
    assert ("3 slices of 3 patients" if kind == "published" else "6 slices of 6 patients") in told
    assert "never for reading a patient" in model.manifest.intended_use
    with pytest.raises(InputRefused, match="images that are drawn"):
        model.manifest.check_reads_scans("reading")


def test_the_ledger_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    made = [replace(p, patient="", sources=("p0", "p1")) for p in slices(3)]
    write_ledger(made, tmp_path / "new" / "ledger.csv")
    rows = read_training(tmp_path / "new" / "ledger.csv")
    assert tuple(rows) == ledger_of(made)
    assert len({row.sha256 for row in rows}) == 3, "every image has its own hash"


def test_kept_images_are_read_back_under_their_own_key_alone(tmp_path: Path) -> None:
    settings, own = small_generator("conditional", **TINY), slices(6)
    drawn = list(sample_pictures(untrained(settings), settings, 3, trained_on=own, seed=3))
    write_pictures(drawn, tmp_path / "images.npz", "a key")
    back = read_pictures(tmp_path / "images.npz", "a key")
    assert ledger_of(back) == ledger_of(drawn)
    assert [p.outcome for p in back] == [1.0] * 3
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(drawn, back, strict=True))
    assert read_pictures(tmp_path / "images.npz", "another") == []
    assert read_pictures(tmp_path / "nothing.npz", "a key") == []


def test_how_many_steps_sample_does_not_train_anew() -> None:
    own, settings = slices(4), small_generator("conditional", **TINY)
    assert training_fingerprint(own, settings) == training_fingerprint(
        own, changed(settings, {"sampling_steps": 5})
    )
    assert training_fingerprint(own, settings) != training_fingerprint(own, changed(settings, {"ch": 64}))


def test_half_precision_samples_nearly_the_same() -> None:
    settings, own = small_generator("conditional", **TINY), slices(4)
    network = untrained(settings)
    fine, half = (
        next(sample_pictures(network, changed(settings, {"precision": p}), 1, trained_on=own, seed=0)).image
        for p in ("fp32", "bf16")
    )
    assert not np.array_equal(fine, half)
    assert np.abs(fine - half).max() < 0.1
