"""Synthetic slices of haematomas: Diffusion U-KAN learns them from patients and samples new ones.

*Published*: two-dimensional, unconditional, trained on expanded haematomas only; linear noise schedule, noise
predicted. *Ours*: conditional on the haematoma's outline and on whether it expanded, so that all patients are
trained on and every sample has a known outline.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ichnos.arrays import Floats32
from ichnos.errors import InputRefused, UsageError
from ichnos.learning.expansion.settings import GeneratorSettings
from ichnos.learning.loop.steps import Loss, Step
from ichnos.learning.loop.training import Progress, train
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
    sources: tuple[str, ...] = ()


def noise_schedule(settings: GeneratorSettings) -> diffusion.NoiseSchedule:
    """Return the noise schedule of a generator: linear as published, cosine for ours.

    >>> noise_schedule(GeneratorSettings(noise_steps=10)).alphas_bar.shape
    torch.Size([10])
    """
    published = settings.kind == "published"
    make = diffusion.linear_schedule if published else diffusion.cosine_schedule
    return make(settings.noise_steps)


def train_generator(
    pictures: Sequence[Picture],
    settings: GeneratorSettings,
    out: Path,
    *,
    device: str = "cpu",
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train on slices of patients, the published kind on expanded ones only; the same call resumes."""
    chosen = [p for p in pictures if p.outcome > 0] if settings.kind == "published" else list(pictures)
    if len(chosen) < 2:
        raise InputRefused(
            f"{len(chosen)} slices"
            f" {'of expanded haematomas ' if settings.kind == 'published' else ''}were given; 2 are the least"
        )
    if any(not p.patient for p in chosen):
        raise InputRefused(
            "a synthetic image is among those to train on; a generator is trained on images of patients only"
        )
    images = torch.from_numpy(np.stack([p.image for p in chosen]))[:, None].float()
    masks = torch.from_numpy(np.stack([p.mask for p in chosen]))[:, None].float()
    outcomes = torch.tensor([[p.outcome] for p in chosen]).float()
    schedule = noise_schedule(settings)

    def loss_of(network: nn.Module, step: Step) -> Loss:
        rng = np.random.default_rng([settings.loop.seed, step.number])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        at = torch.from_numpy(rng.integers(len(chosen), size=settings.loop.batch))
        flips = tuple(
            axis
            for axis, fair in ((2, settings.kind == "published"), (3, True))
            if fair and rng.random() < 0.5
        )
        image, mask = (torch.flip(part[at], flips) for part in (images, masks))
        image = image if settings.kind == "conditional" else image.expand(-1, 3, -1, -1)
        t = torch.randint(settings.noise_steps, (settings.loop.batch,), generator=generator).to(device)
        noise = torch.randn(image.shape, generator=generator).to(device)
        keep = diffusion.kept_conditions(settings.loop.batch, _UNKNOWN, generator=generator).to(device)
        model = _conditioned(network, settings, mask.to(device), outcomes[at].to(device), keep)
        with step.autocast():
            error = diffusion.loss_map(model, image.to(device), t, noise, schedule)
        return Loss(diffusion.published_loss(error) if settings.kind == "published" else error.mean())

    digest = hashlib.sha256(
        settings.model_dump_json().encode() + b"".join(p.image.tobytes() for p in chosen)
    ).hexdigest()[:16]
    return train(
        settings.network(),
        settings.loop.for_examples(len(chosen)),
        loss_of,
        out,
        data=digest,
        device=device,
        seconds=seconds,
        report=report,
    )


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
    few_steps: int | None = 50,
    device: str = "cpu",
) -> Iterator[Picture]:
    """Sample images in batches, ours over the outlines of training patients. No image is selected.

    `few_steps` uses DDIM with so many steps; None takes the whole schedule, as published. The sources of each
    image are all patients that the generator was trained on.
    """
    if settings.kind == "published" and outcome != 1.0:
        raise UsageError("the published generator has seen expanded haematomas only; it cannot sample others")
    sources = tuple(
        sorted({p.patient for p in trained_on if settings.kind == "conditional" or p.outcome > 0})
    )
    outlines = [p.mask for p in trained_on if p.outcome == outcome] or [p.mask for p in trained_on]
    rng, schedule = np.random.default_rng([seed, count]), noise_schedule(settings)
    for first in range(0, count, settings.loop.batch):
        n = min(settings.loop.batch, count - first)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
        chosen = np.stack([_outline(outlines, rng) for _ in range(n)])
        mask, wanted = (
            torch.from_numpy(chosen)[:, None].to(device),
            torch.full((n, 1), outcome, device=device),
        )
        channels = 1 if settings.kind == "conditional" else 3
        x = torch.randn((n, channels, settings.size, settings.size), generator=generator).to(device)
        everything = torch.ones(n, dtype=torch.bool, device=device)
        model = _conditioned(network.eval(), settings, mask, wanted, everything)
        if guidance != 1.0 and settings.kind == "conditional":
            model = diffusion.guided(
                model, _conditioned(network, settings, mask, wanted, ~everything), guidance
            )
        if few_steps is None:
            sample = diffusion.sample_ddpm(
                model, x, schedule, noises=diffusion.standard_normal(x, generator=generator)
            )
        else:
            sample = diffusion.sample_ddim(model, x, schedule, steps=min(few_steps, settings.noise_steps))
        for k, image in enumerate(sample.mean(1).cpu().numpy().astype(np.float32)):
            outline = chosen[k] if settings.kind == "conditional" else np.zeros_like(image)
            yield Picture(
                f"made-{settings.kind}-{seed}-{first + k:05d}", image, outline, outcome, sources=sources
            )


def _outline(outlines: Sequence[Floats32], rng: np.random.Generator) -> Floats32:
    """Choose a patient's outline, mirrored half the time."""
    chosen = outlines[int(rng.integers(len(outlines)))]
    return np.ascontiguousarray(chosen[:, ::-1] if rng.random() < 0.5 else chosen, np.float32)
