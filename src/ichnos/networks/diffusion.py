"""Denoising diffusion as pure functions: schedules, forward noising, losses, the ancestral and a few-step
sampler, guidance, averaging.

Notation of Ho 2020 (arXiv 2006.11239): beta_t, alpha_t = 1 - beta_t, abar_t = prod alpha; x_t = sqrt(abar_t)
x_0 + sqrt(1 - abar_t) eps. A network predicts eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Salimans &
Ho 2022). Images lie in [-1, 1]. Schedules are kept in float64 and read in the dtype of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ichnos.errors import UsageError

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t (b, c, ...), t (b,)) -> prediction like x_t
Parametrisation = Literal["epsilon", "v"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The betas of a diffusion process, float64, and what follows from them; index 0 is the least noisy
    step.
    """

    betas: Tensor  # (T,)

    @property
    def steps(self) -> int:
        return len(self.betas)

    @property
    def alphas_bar(self) -> Tensor:
        """abar_t, the share of the image's variance that is left after step t."""
        return torch.cumprod(1.0 - self.betas, dim=0)

    @property
    def signal(self) -> Tensor:
        """sqrt(abar_t)."""
        return self.alphas_bar.sqrt()

    @property
    def noise(self) -> Tensor:
        """sqrt(1 - abar_t)."""
        return (1.0 - self.alphas_bar).sqrt()

    @property
    def posterior_variance(self) -> Tensor:
        """Variance of x_{t-1} given x_t and x_0 (Ho 2020, eq. 7)."""
        abar = self.alphas_bar
        before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
        return self.betas * (1.0 - before) / (1.0 - abar)

    @property
    def sampling_variance(self) -> Tensor:
        """Variance that the ancestral sampler draws with: beta_t, except the posterior's of step 1 at step
        0, which would be zero.
        """
        return torch.cat([self.posterior_variance[1:2], self.betas[1:]])

    @property
    def mean_coefficients(self) -> tuple[Tensor, Tensor]:
        """(c1, c2) of the mean c1 x_t - c2 eps (Ho 2020, eq. 11)."""
        c1 = (1.0 / (1.0 - self.betas)).sqrt()
        return c1, c1 * self.betas / self.noise


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> NoiseSchedule:
    """Rise linearly from `first` to `last`, as published for DDPM and Diffusion U-KAN: spaced in float32,
    then kept in float64.

    >>> linear_schedule(3).betas
    tensor([1.0000e-04, 1.0050e-02, 2.0000e-02], dtype=torch.float64)
    """
    return NoiseSchedule(torch.linspace(first, last, steps, dtype=torch.float32).double())


def cosine_schedule(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> NoiseSchedule:
    """Let abar fall as a squared cosine (Nichol & Dhariwal 2021, eq. 17), which wastes fewer steps on pure
    noise.

    >>> cosine_schedule(10).alphas_bar.round(decimals=2).tolist()[:2]
    [0.97, 0.9]
    """
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = torch.cos((at + offset) / (1 + offset) * math.pi / 2) ** 2
    return NoiseSchedule((1 - abar[1:] / abar[:-1]).clamp(max=largest))


def at_step(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Read values (T,) at steps t (b,), in the dtype of `like` and shaped to multiply it.

    >>> at_step(torch.tensor([0.1, 0.2]), torch.tensor([1, 0]), torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 1, 1, 1])
    """
    return values.to(t.device)[t].to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))


def add_noise(x0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Draw x_t given x_0 and standard normal noise."""
    return at_step(schedule.signal, t, x0) * x0 + at_step(schedule.noise, t, x0) * noise


def training_target(
    x0: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule, prediction: Parametrisation = "epsilon"
) -> Tensor:
    """Return what the network should predict at x_t."""
    if prediction == "epsilon":
        return noise
    return at_step(schedule.signal, t, x0) * noise - at_step(schedule.noise, t, x0) * x0


def loss_map(
    model: Denoiser,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    schedule: NoiseSchedule,
    prediction: Parametrisation = "epsilon",
) -> Tensor:
    """Squared error of the prediction, elementwise (b, c, ...)."""
    predicted = model(add_noise(x0, t, noise, schedule), t)
    return (predicted - training_target(x0, t, noise, schedule, prediction)) ** 2


def published_loss(squared_error: Tensor) -> Tensor:
    """Sum / 1000, as Diffusion U-KAN trains; it depends on batch and image size, so their learning rate
    goes with their sizes only.

    >>> round(published_loss(torch.full((1, 1, 10, 10), 2.0)).item(), 6)
    0.2
    """
    return squared_error.sum() / 1000.0


def as_epsilon(
    predicted: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule, prediction: Parametrisation
) -> Tensor:
    """Turn a prediction at x_t into the noise it implies."""
    if prediction == "epsilon":
        return predicted
    return at_step(schedule.signal, t, x) * predicted + at_step(schedule.noise, t, x) * x


def ddpm_mean(eps: Tensor, x: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Mean of x_{t-1} given x_t and the noise in it."""
    c1, c2 = schedule.mean_coefficients
    return at_step(c1, t, x) * x - at_step(c2, t, x) * eps


@torch.no_grad()
def sample_ddpm(
    model: Denoiser,
    x: Tensor,
    schedule: NoiseSchedule,
    *,
    noises: Iterable[Tensor],
    prediction: Parametrisation = "epsilon",
) -> Tensor:
    """Walk from pure noise x_T to an image in [-1, 1], every step of the schedule; `noises` yields one
    like x per step but the last.
    """
    drawn = iter(noises)
    variance = schedule.sampling_variance
    for step in reversed(range(schedule.steps)):
        t = torch.full((len(x),), step, dtype=torch.long, device=x.device)
        eps = as_epsilon(model(x, t), x, t, schedule, prediction)
        mean = ddpm_mean(eps, x, t, schedule)
        x = mean + at_step(variance, t, x).sqrt() * next(drawn) if step else mean
    return x.clamp(-1.0, 1.0)


@torch.no_grad()
def sample_ddim(
    model: Denoiser,
    x: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: int = 50,
    clip: bool = True,
    prediction: Parametrisation = "epsilon",
) -> Tensor:
    """Walk from pure noise x_T to an image in [-1, 1] in a few even steps (Song 2021, DDIM, eta = 0).

    `clip` keeps every estimate of x_0 in [-1, 1] on the way.
    """
    if not 1 <= steps <= schedule.steps:
        raise UsageError(f"steps is {steps}; expected 1 to {schedule.steps}, the length of the schedule")
    path = torch.linspace(schedule.steps - 1, 0, steps, dtype=torch.float64).round().long().tolist()
    signal, noise = schedule.signal.tolist(), schedule.noise.tolist()
    for here, there in zip(path, [*path[1:], None], strict=True):
        t = torch.full((len(x),), here, dtype=torch.long, device=x.device)
        eps = as_epsilon(model(x, t), x, t, schedule, prediction)
        x0 = (x - noise[here] * eps) / signal[here]
        if clip:
            x0 = x0.clamp(-1.0, 1.0)
            eps = (x - signal[here] * x0) / noise[here]
        x = x0 if there is None else signal[there] * x0 + noise[there] * eps
    return x.clamp(-1.0, 1.0)


def standard_normal(like: Tensor, *, generator: torch.Generator) -> Iterable[Tensor]:
    """Yield noise shaped like a batch of images, for ever."""
    while True:
        yield torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device).to(
            like.device
        )


def guided(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Combine two predictions by classifier-free guidance (Ho & Salimans 2022): scale 1 is the conditional
    one, more exaggerates it.

    >>> always = guided(lambda x, t: x + 1, lambda x, t: x, 3.0)
    >>> always(torch.zeros(1), torch.zeros(1)).item()
    3.0
    """

    def predict(x: Tensor, t: Tensor) -> Tensor:
        without = unconditional(x, t)
        return without + scale * (conditional(x, t) - without)

    return predict


def kept_conditions(batch: int, dropout: float, *, generator: torch.Generator) -> Tensor:
    """Draw which samples of a batch keep their condition (b,) bool, so that a network also learns to do
    without.
    """
    return torch.rand(batch, generator=generator, device=generator.device) >= dropout
