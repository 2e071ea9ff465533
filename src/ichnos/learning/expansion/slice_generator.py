"""Synthetic slices of haematomas: Diffusion U-KAN learns them from patients and samples new ones.

*Published*: two-dimensional, unconditional, trained on expanded haematomas only; linear noise schedule, noise
predicted. *Ours*: conditional on the haematoma's outline and on whether it expanded, so that all patients are
trained on and every sample has a known outline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused, UsageError
from ichnos.learning.expansion.settings import GeneratorKind, GeneratorSettings
from ichnos.learning.loop.resources import ON_CPU, Resources
from ichnos.learning.loop.steps import Loss, Step, autocast
from ichnos.learning.loop.training import train
from ichnos.networks import diffusion

_UNKNOWN = 0.1  # share of the training images whose condition is hidden, for guidance


@dataclass(frozen=True, eq=False)
class Picture:
    """One slice of a patient, or a synthetic one."""

    name: str
    image: Floats32  # (size, size), -1..1
    mask: Floats32  # (size, size), the haematoma's outline, 0..1; zeros where it is not known
    outcome: float  # 1 expanded, 0 not
    patient: str = ""  # "" for a synthetic one
    sources: tuple[str, ...] = ()  # of a synthetic one: all patients that its generator was trained on


def noise_schedule(settings: GeneratorSettings) -> diffusion.NoiseSchedule:
    """Return the noise schedule of a generator: linear as published, cosine for ours.

    >>> noise_schedule(GeneratorSettings(noise_steps=10)).alphas_bar.shape
    torch.Size([10])
    """
    published = settings.kind == "published"
    make = diffusion.linear_schedule if published else diffusion.cosine_schedule
    return make(settings.noise_steps)


def train_generator(
    pictures: Sequence[Picture], settings: GeneratorSettings, out: Path, *, resources: Resources = ON_CPU
) -> nn.Module:
    """Train on slices of patients, the published kind on expanded ones only; the same call resumes."""
    chosen = taught(pictures, settings.kind)
    _check_pictures(chosen, settings.kind)
    return train(
        settings.network(),
        settings.loop.for_examples(len(chosen)),
        _GeneratorLoss.of(chosen, settings, resources.device),
        out,
        data=training_fingerprint(chosen, settings),
        resources=resources,
    )


def training_fingerprint(chosen: Sequence[Picture], settings: GeneratorSettings) -> str:
    """Return a hash of all that decides a generator's weights; how it is sampled is no part of it."""
    said = settings.model_dump_json(exclude={"sampling_steps"})
    content = said.encode() + b"".join(p.image.tobytes() for p in chosen)
    return hashlib.sha256(content).hexdigest()[:16]


def taught(pictures: Sequence[Picture], kind: GeneratorKind) -> list[Picture]:
    """Return the images that a kind of generator is trained on: the published one sees expanded ones only."""
    return [p for p in pictures if kind == "conditional" or p.outcome > 0]


def _check_pictures(chosen: Sequence[Picture], kind: GeneratorKind) -> None:
    """Refuse too few slices, and images that are synthetic themselves."""
    if len(chosen) < 2:
        which = "of expanded haematomas " if kind == "published" else ""
        raise InputRefused(f"{len(chosen)} slices {which}were given; 2 are the least")
    if any(not p.patient for p in chosen):
        raise InputRefused(
            "a synthetic image is among those to train on; a generator is trained on images of patients only"
        )


@dataclass(frozen=True, eq=False)
class _GeneratorLoss:
    """Call it with a network and a step: the error of the noise that it predicts in a batch of slices."""

    settings: GeneratorSettings
    images: Tensor  # (slice, 1, y, x)
    masks: Tensor  # (slice, 1, y, x)
    outcomes: Tensor  # (slice, 1)
    schedule: diffusion.NoiseSchedule
    device: str

    @classmethod
    def of(cls, chosen: Sequence[Picture], settings: GeneratorSettings, device: str) -> _GeneratorLoss:
        images = torch.from_numpy(np.stack([p.image for p in chosen]))[:, None].float()
        masks = torch.from_numpy(np.stack([p.mask for p in chosen]))[:, None].float()
        outcomes = torch.tensor([[p.outcome] for p in chosen]).float()
        return cls(settings, images, masks, outcomes, noise_schedule(settings), device)

    def __call__(self, network: nn.Module, step: Step) -> Loss:
        settings, device, size = self.settings, self.device, self.settings.loop.batch
        published = settings.kind == "published"
        rng = np.random.default_rng([settings.loop.seed, step.number])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        at = torch.from_numpy(rng.integers(len(self.images), size=size))
        mirrored = (2, 3) if published else (3,)
        flips = tuple(axis for axis in mirrored if rng.random() < 0.5)
        image, mask = (torch.flip(part[at], flips) for part in (self.images, self.masks))
        image = image.expand(-1, 3, -1, -1) if published else image
        t = torch.randint(settings.noise_steps, (size,), generator=generator).to(device)
        noise = torch.randn(image.shape, generator=generator).to(device)
        keep = diffusion.kept_conditions(size, _UNKNOWN, generator=generator).to(device)
        model = _conditioned(network, settings, mask.to(device), self.outcomes[at].to(device), keep)
        with step.autocast():
            error = diffusion.loss_map(model, image.to(device), t, noise, self.schedule)
        return Loss(diffusion.published_loss(error) if published else error.mean())


def _conditioned(
    network: nn.Module, settings: GeneratorSettings, mask: Tensor, outcome: Tensor, keep: Tensor
) -> diffusion.Denoiser:
    if settings.kind == "published":
        return lambda x, t: network(x, t).float()
    return lambda x, t: network(x, t, mask, outcome, keep).float()


def sample_pictures(
    network: nn.Module,
    settings: GeneratorSettings,
    count: int,
    *,
    trained_on: Sequence[Picture],
    outcome: float = 1.0,
    seed: int,
    guidance: float = 1.0,
    device: str = "cpu",
) -> Iterator[Picture]:
    """Sample images in batches, ours over the outlines of training patients. No image is selected.

    Fewer images of the same seed are the first of more, but for the last batch.
    """
    sampler = _Sampler(network.eval(), settings, outcome, guidance, device)
    sources = tuple(sorted({p.patient for p in taught(trained_on, settings.kind)}))
    known = [p.mask for p in trained_on if p.outcome == outcome] or [p.mask for p in trained_on]
    rng = np.random.default_rng(seed)
    for first in range(0, count, settings.loop.batch):
        size = min(settings.loop.batch, count - first)
        outlines = np.stack([_outline(known, rng) for _ in range(size)])
        images = sampler(outlines, torch.Generator().manual_seed(seed * 1_000_003 + first))
        masks = outlines if settings.kind == "conditional" else np.zeros_like(images)
        for k in range(size):
            name = f"made-{settings.kind}-{seed}-{first + k:05d}"
            yield Picture(name, images[k], masks[k], outcome, sources=sources)


@dataclass(frozen=True, eq=False)
class _Sampler:
    """Call it with outlines and a generator of noise: one image per outline."""

    network: nn.Module
    settings: GeneratorSettings
    outcome: float
    guidance: float
    device: str

    def __post_init__(self) -> None:
        if self.settings.kind == "published" and self.outcome != 1.0:
            raise UsageError(
                "the published generator has seen expanded haematomas only; it cannot sample others"
            )

    def __call__(self, outlines: Floats32, generator: torch.Generator) -> Floats32:
        settings, n = self.settings, len(outlines)
        channels = 1 if settings.kind == "conditional" else 3
        x = torch.randn((n, channels, settings.size, settings.size), generator=generator).to(self.device)
        model, schedule = self._denoiser(outlines), noise_schedule(settings)
        with autocast(torch.device(self.device).type, settings.loop.precision):
            if settings.sampling_steps is None:
                noises = diffusion.standard_normal(x, generator=generator)
                sample = diffusion.sample_ddpm(model, x, schedule, noises=noises)
            else:
                steps = min(settings.sampling_steps, settings.noise_steps)
                sample = diffusion.sample_ddim(model, x, schedule, steps=steps)
        images: Floats32 = sample.mean(1).cpu().numpy().astype(np.float32)
        return images

    def _denoiser(self, outlines: Floats32) -> diffusion.Denoiser:
        """Return the network under the condition of outlines and outcome, with guidance where asked for."""
        n, settings = len(outlines), self.settings
        mask = torch.from_numpy(outlines)[:, None].to(self.device)
        wanted = torch.full((n, 1), self.outcome, device=self.device)
        known = torch.ones(n, dtype=torch.bool, device=self.device)
        model = _conditioned(self.network, settings, mask, wanted, known)
        if self.guidance == 1.0 or settings.kind == "published":
            return model
        blind = _conditioned(self.network, settings, mask, wanted, ~known)
        return diffusion.guided(model, blind, self.guidance)


def _outline(outlines: Sequence[Floats32], rng: np.random.Generator) -> Floats32:
    """Choose a patient's outline, mirrored half the time."""
    chosen = outlines[int(rng.integers(len(outlines)))]
    return np.ascontiguousarray(chosen[:, ::-1] if rng.random() < 0.5 else chosen, np.float32)
