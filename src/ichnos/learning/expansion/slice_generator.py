"""Images that were made: Diffusion U-KAN learns slices of haematomas and draws new ones, each in a ledger,
none of them a copy.

*Published*: two-dimensional, unconditional, trained on the expanded alone; linear noise schedule, noise
predicted. *Ours*: conditional on the haematoma's outline and on whether it expanded, so that all patients
teach it and what is drawn has a known outline.
"""

from __future__ import annotations

import datetime
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ichnos import __version__
from ichnos.errors import InputRefused, UsageError
from ichnos.evidence.leakage import TrainingImage, write_training
from ichnos.files import atomic_file
from ichnos.learning.expansion.crops import PUBLISHED_SPACING_MM, WINDOW_90_45_HU
from ichnos.learning.loop.optimise import Course, optimise
from ichnos.models import (
    Manifest,
    Model,
    NetworkSpec,
    Preprocessing,
    Provenance,
    TargetSpec,
    load_model,
    save_model,
)
from ichnos.networks import diffusion

Kind = Literal["published", "conditional"]
Floats = npt.NDArray[np.float32]
_UNKNOWN = 0.1  # share of the training images whose condition is hidden, for guidance


@dataclass(frozen=True, eq=False)
class Picture:
    """One slice of a patient, or one that was made."""

    name: str
    image: Floats  # (size, size), -1..1
    mask: Floats  # (size, size), the haematoma's outline, 0..1; zeros where it is not known
    outcome: float  # 1 expanded, 0 not
    patient: str = ""  # "" for one that was made
    sources: tuple[str, ...] = ()


class GeneratorPlan(BaseModel):
    """How a generator is trained and drawn from. The defaults are the published sizes; `small_plan` is for
    CPUs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    steps: int = Field(gt=0)
    size: int = 224
    batch: int = Field(default=32, gt=0)
    noise_steps: int = Field(default=1000, gt=1)
    ch: int = 64
    ch_mult: tuple[int, ...] = (1, 2, 3, 4)
    embed_dims: tuple[int, int, int] = (256, 320, 512)
    res_blocks: int = 2
    dropout: float = 0.15
    learning_rate: float = 1e-4
    seed: int = 0

    def network(self) -> NetworkSpec:
        """Return the network of this plan."""
        shape = {
            "T": self.noise_steps,
            "ch": self.ch,
            "ch_mult": list(self.ch_mult),
            "embed_dims": list(self.embed_dims),
        }
        extra = {"condition_channels": 1, "condition_features": 1} if self.kind == "conditional" else {}
        channels = 1 if self.kind == "conditional" else 3
        arguments = {
            **shape,
            "num_res_blocks": self.res_blocks,
            "dropout": self.dropout,
            "in_channels": channels,
            **extra,
        }
        return NetworkSpec(name="diffusion_ukan", arguments=arguments)

    def schedule(self) -> diffusion.Schedule:
        """Return the noise schedule: linear as published, cosine for ours."""
        return (
            diffusion.linear_schedule(self.noise_steps)
            if self.kind == "published"
            else diffusion.cosine_schedule(self.noise_steps)
        )


def small_plan(kind: Kind, *, steps: int, size: int = 32, **changes: Any) -> GeneratorPlan:
    """Return a plan whose network a processor without an accelerator can train in minutes.

    >>> small_plan("conditional", steps=10).network().arguments["condition_channels"]
    1
    """
    small = {
        "ch": 32,
        "ch_mult": (1, 2),
        "embed_dims": (64, 64, 96),
        "res_blocks": 1,
        "dropout": 0.05,
        "batch": 8,
        "learning_rate": 5e-4,
    }
    return GeneratorPlan(kind=kind, steps=steps, size=size, **{**small, **changes})


def train_generator(
    pictures: Sequence[Picture],
    plan: GeneratorPlan,
    out: Path,
    *,
    device: str = "cpu",
    seconds: float = math.inf,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> nn.Module:
    """Train on slices of patients; the same call goes on where it was stopped. The published kind takes
    the expanded ones alone.
    """
    chosen = [p for p in pictures if p.outcome > 0] if plan.kind == "published" else list(pictures)
    if len(chosen) < 2:
        raise InputRefused(
            f"{len(chosen)} slices {'of expanded haematomas ' if plan.kind == 'published' else ''}were given;"
            " 2 are the least"
        )
    if any(not p.patient for p in chosen):
        raise InputRefused(
            "an image that was made is among those to learn from; a generator learns from patients alone"
        )
    images = torch.from_numpy(np.stack([p.image for p in chosen]))[:, None].float()
    masks = torch.from_numpy(np.stack([p.mask for p in chosen]))[:, None].float()
    outcomes = torch.tensor([[p.outcome] for p in chosen]).float()
    schedule = plan.schedule()

    def loss_of(network: nn.Module, step: int) -> Tensor:
        rng = np.random.default_rng([plan.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        at = torch.from_numpy(rng.integers(len(chosen), size=plan.batch))
        flips = tuple(
            axis for axis, fair in ((2, plan.kind == "published"), (3, True)) if fair and rng.random() < 0.5
        )
        image, mask = (torch.flip(part[at], flips) for part in (images, masks))
        image = image if plan.kind == "conditional" else image.expand(-1, 3, -1, -1)
        t = torch.randint(plan.noise_steps, (plan.batch,), generator=generator).to(device)
        noise = torch.randn(image.shape, generator=generator).to(device)
        keep = diffusion.kept_conditions(plan.batch, _UNKNOWN, generator=generator).to(device)
        model = _conditioned(network, plan, mask.to(device), outcomes[at].to(device), keep)
        error = diffusion.loss_map(model, image.to(device), t, noise, schedule)
        return diffusion.published_loss(error) if plan.kind == "published" else error.mean()

    digest = hashlib.sha256(
        plan.model_dump_json().encode() + b"".join(p.image.tobytes() for p in chosen)
    ).hexdigest()[:16]
    course = Course(
        network=plan.network(),
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        ema_decay=0.995,
        data=digest,
    )
    return optimise(course, loss_of, out, device=device, seconds=seconds, report=report)


def _conditioned(
    network: nn.Module, plan: GeneratorPlan, mask: Tensor, outcome: Tensor, keep: Tensor
) -> diffusion.Denoiser:
    if plan.kind == "published":
        return lambda x, t: network(x, t)
    return lambda x, t: network(x, t, mask, outcome, keep)


def draw_pictures(
    network: nn.Module,
    plan: GeneratorPlan,
    count: int,
    *,
    learnt_from: Sequence[Picture],
    outcome: float = 1.0,
    seed: int,
    guidance: float = 1.0,
    few_steps: int | None = 50,
    device: str = "cpu",
) -> Iterator[Picture]:
    """Draw images in batches; ours over the outlines of patients it learnt from. No image is selected.

    `few_steps` uses DDIM with so many steps; None walks the whole schedule as published. Sources are all
    patients it learnt from.
    """
    if plan.kind == "published" and outcome != 1.0:
        raise UsageError("the published generator has seen expanded haematomas alone; it cannot draw others")
    sources = tuple(sorted({p.patient for p in learnt_from if plan.kind == "conditional" or p.outcome > 0}))
    outlines = [p.mask for p in learnt_from if p.outcome == outcome] or [p.mask for p in learnt_from]
    rng, schedule = np.random.default_rng([seed, count]), plan.schedule()
    for first in range(0, count, plan.batch):
        n = min(plan.batch, count - first)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + first)
        chosen = np.stack([_outline(outlines, rng) for _ in range(n)])
        mask, wanted = (
            torch.from_numpy(chosen)[:, None].to(device),
            torch.full((n, 1), outcome, device=device),
        )
        channels = 1 if plan.kind == "conditional" else 3
        x = torch.randn((n, channels, plan.size, plan.size), generator=generator).to(device)
        everything = torch.ones(n, dtype=torch.bool, device=device)
        model = _conditioned(network.eval(), plan, mask, wanted, everything)
        if guidance != 1.0 and plan.kind == "conditional":
            model = diffusion.guided(model, _conditioned(network, plan, mask, wanted, ~everything), guidance)
        if few_steps is None:
            drawn = diffusion.sample_ddpm(
                model, x, schedule, noises=diffusion.standard_normal(x, generator=generator)
            )
        else:
            drawn = diffusion.sample_ddim(model, x, schedule, steps=min(few_steps, plan.noise_steps))
        for k, image in enumerate(drawn.mean(1).cpu().numpy().astype(np.float32)):
            outline = chosen[k] if plan.kind == "conditional" else np.zeros_like(image)
            yield Picture(
                f"made-{plan.kind}-{seed}-{first + k:05d}", image, outline, outcome, sources=sources
            )


def _outline(outlines: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Draw a patient's outline, mirrored half the time."""
    chosen = outlines[int(rng.integers(len(outlines)))]
    return np.ascontiguousarray(chosen[:, ::-1] if rng.random() < 0.5 else chosen, np.float32)


# ---- as a Model folder
# ---------------------------------------------------------------------------------------------

TARGET = TargetSpec(name="haematoma_slices", kind="image", group="expansion")


def save_generator(
    network: nn.Module,
    plan: GeneratorPlan,
    folder: Path,
    *,
    learnt_from: Sequence[Picture],
    steps: int,
    command: str,
    device: str = "cpu",
) -> Model:
    """Write a generator as a Model folder. What it drew may teach no model that is evaluated on the
    patients it learnt from.
    """
    chosen = [p for p in learnt_from if plan.kind == "conditional" or p.outcome > 0]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(p.image).tobytes() for p in chosen)).hexdigest()
    seen = (
        "with their outlines and outcomes"
        if plan.kind == "conditional"
        else "of expanded haematomas, without outlines"
    )
    manifest = Manifest(
        name=folder.name,
        version="1",
        intended_use=(
            "Research use only: images for training, never for reading a patient. Not a medical device."
        ),
        limits=(
            f"Learnt from {len(chosen)} slices of {len({p.patient for p in chosen})} patients, {seen}.",
            (
                "What it draws goes back to those patients: the ledger that is written beside drawn images"
                " names them."
            ),
        ),
        network=plan.network(),
        preprocessing=Preprocessing(
            spacing_mm=PUBLISHED_SPACING_MM, windows_hu=(WINDOW_90_45_HU,), patch=(plan.size, plan.size, 1)
        ),
        targets=(TARGET,),
        provenance=Provenance(
            code_version=__version__,
            command=command,
            seeds=(plan.seed,),
            steps=steps,
            data={"slices": digest},
            hardware="1 GPU" if device != "cpu" else "CPU",
            trained=datetime.datetime.now(datetime.UTC).date().isoformat(),
        ),
    )
    return save_model(folder, network, manifest)


def load_generator(folder: str | Path, *, device: str = "cpu") -> tuple[nn.Module, GeneratorPlan]:
    """Load a Model folder as a generator, with the plan by which `draw_pictures` draws."""
    model = load_model(folder)
    told, given = model.manifest, model.manifest.network.arguments
    if told.targets != (TARGET,):
        raise InputRefused(
            f"{folder} draws no images (network {told.network.name}); a generator of `ichnos synthesize` is"
            " expected"
        )
    plan = GeneratorPlan(
        kind="conditional" if "condition_channels" in given else "published",
        steps=max(1, told.provenance.steps),
        size=told.preprocessing.patch[0],
        noise_steps=given["T"],
        ch=given["ch"],
        ch_mult=tuple(given["ch_mult"]),
        embed_dims=tuple(given["embed_dims"]),
        res_blocks=given["num_res_blocks"],
        dropout=given["dropout"],
        seed=told.provenance.seeds[0],
    )
    return model.network(device=device), plan


# ---- how good, and how new
# -----------------------------------------------------------------------------------------


class RandomFeatures:
    """The embedded feature extractor: a fixed random convolutional network (three levels, seed 2026), needs
    no download.

    It was trained on nothing, so its distances compare arms of one study and cannot be compared with
    published FID, which rests on a network trained on photographs. Features: mean and standard deviation of
    each of 64 channels.
    """

    def __init__(self, seed: int = 2026) -> None:
        generator = torch.Generator().manual_seed(seed)
        widths = (1, 16, 32, 64)
        self.kernels = [
            torch.randn((b, a, 3, 3), generator=generator) * (2 / (9 * a)) ** 0.5
            for a, b in itertools.pairwise(widths)
        ]

    def __call__(self, images: Sequence[Floats]) -> npt.NDArray[np.float64]:
        """Return features (n, 128) of images (size, size) in -1..1."""
        x = torch.from_numpy(np.stack(images))[:, None].float()
        for kernel in self.kernels:
            x = nn.functional.avg_pool2d(
                nn.functional.leaky_relu(nn.functional.conv2d(x, kernel, padding=1), 0.1), 2
            )
        return np.asarray(torch.cat([x.mean((2, 3)), x.std((2, 3))], 1).double().numpy(), np.float64)


def frechet_distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the Fréchet distance of two sets of features, as FID has it; with fewer images than features it
    is biased upward.

    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> round(frechet_distance(x, x), 6), round(frechet_distance(x, x + 1), 3)
    (0.0, 3.0)
    """
    if min(len(a), len(b)) < 2:
        raise InputRefused(
            f"the Fréchet distance needs at least 2 images on either side; there are {len(a)} and {len(b)}"
        )
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b)]
    shared = np.sqrt(
        np.clip(np.real(np.linalg.eigvals(covariances[0] @ covariances[1])), 0, None)
    ).sum()  # trace of the product's root
    distance = (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(covariances[0])
        + np.trace(covariances[1])
        - 2 * shared
    )
    return max(0.0, float(distance))


def kernel_distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Return the unbiased squared maximum mean discrepancy with KID's cubic kernel; 0 on average for two
    samples of one law.
    """
    if min(len(a), len(b)) < 2:
        raise InputRefused(f"KID needs at least 2 images on either side; there are {len(a)} and {len(b)}")

    def kernel(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        out: npt.NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
        return out

    def within(x: npt.NDArray[np.float64]) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


@dataclass(frozen=True)
class Novelty:
    """How near the images that were made come to those learnt from, against how near other patients come."""

    # median distance of a made image to the nearest one learnt from (root mean square, 16 x 16 pixels)
    nearest_made: float
    nearest_held_out: float  # the same for images of patients who were not learnt from
    copies_share: float  # share of made images nearer than the nearest hundredth of the held-out ones
    ratio: float  # nearest_made / nearest_held_out: far below 1 speaks for memorised images


def novelty(made: Sequence[Picture], learnt_from: Sequence[Picture], held_out: Sequence[Picture]) -> Novelty:
    """Compare nearest-neighbour distances; mirrored copies count as copies."""
    for name, part in (("made", made), ("learnt from", learnt_from), ("held out", held_out)):
        if not part:
            raise InputRefused(f"no image was {name}, so copies cannot be looked for")
    known = np.concatenate([_thumbnails(learnt_from), _thumbnails(learnt_from, mirror=True)])
    near, far = (_nearest(_thumbnails(part), known) for part in (made, held_out))
    limit = float(np.quantile(far, 0.01))
    return Novelty(
        float(np.median(near)),
        float(np.median(far)),
        float(np.mean(near < limit)),
        float(np.median(near) / np.median(far)),
    )


def _thumbnails(pictures: Sequence[Picture], *, mirror: bool = False) -> npt.NDArray[np.float64]:
    stack = torch.from_numpy(np.stack([p.image[:, ::-1].copy() if mirror else p.image for p in pictures]))[
        :, None
    ].float()
    small = nn.functional.interpolate(stack, size=(16, 16), mode="area")
    return small.flatten(1).double().numpy()


def _nearest(these: npt.NDArray[np.float64], those: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    out: npt.NDArray[np.float64] = cdist(these, those).min(axis=1) / math.sqrt(these.shape[1])
    return out


def ledger_of(made: Sequence[Picture], *, split: str = "train") -> tuple[TrainingImage, ...]:
    """Return the ledger's line of every image: from which patients it comes, and the hash of its pixels."""
    return tuple(
        TrainingImage(image=p.name, split=split, sources=p.sources, sha256=_sha256(p.image)) for p in made
    )


def write_ledger(made: Sequence[Picture], path: Path) -> None:
    """Write the ledger of images that were made, as `evidence.ledger.read_training` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_training(ledger_of(made), path)


def _sha256(image: Floats) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def contact_sheet(rows: Sequence[tuple[str, Sequence[Picture]]], file: Path, *, columns: int = 10) -> None:
    """Draw pictures in titled rows as one PNG, from black at 0 HU to white at 90."""
    from matplotlib.figure import Figure

    lines = [
        (title if k == 0 else "", part[k : k + columns])
        for title, part in rows
        for k in range(0, len(part), columns)
    ]
    figure = Figure(figsize=(columns, 1.12 * len(lines) + 0.2), layout="constrained")
    axes = figure.subplots(len(lines), columns, squeeze=False)
    for line, (title, part) in zip(axes, lines, strict=True):
        for place, axis in enumerate(line):
            axis.set_axis_off()
            if place < len(part):
                axis.imshow(part[place].image, cmap="gray", vmin=-1, vmax=1)
        line[0].set_title(title, loc="left", fontsize=8)
    with atomic_file(file) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
