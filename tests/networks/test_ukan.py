"""KAN, diffusion U-KAN and diffusion itself: the published numbers, and properties beyond them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ichnos.errors import InputRefused, UsageError
from ichnos.learning.loop.settings import published_learning_rate
from ichnos.learning.loop.training import update_average
from ichnos.networks import diffusion
from ichnos.networks.kan import KANLinear
from ichnos.networks.ukan import DiffusionUKAN

SMALL: dict[str, Any] = {
    "T": 20,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "embed_dims": [64, 32, 64],
    "tdim": 16,
    "in_channels": 1,
}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.double()).norm() / b.double().norm())


def published_loss(output: Tensor) -> Tensor:
    noise = torch.from_numpy(np.random.default_rng(5000).standard_normal(tuple(output.shape)))
    return (output * noise.to(output.dtype)).mean()


def sine(x: Tensor, t: Tensor) -> Tensor:
    """The stand-in for a network whose diffusion is stored."""
    return 0.5 * torch.sin(x) + 0.01 * t.reshape(-1, 1, 1, 1)


# --- Kolmogorov-Arnold layer
# ------------------------------------------------------------------------------------------


def test_kan_is_the_published_one(shared: Path) -> None:
    stored = torch.load(shared / "parity" / "kan_linear.pt", weights_only=True)
    layer = KANLinear(**stored["config"])
    layer.load_state_dict(stored["state_dict"])
    x = stored["input"].clone().requires_grad_()
    output = layer(x)
    published_loss(output).backward()
    assert (output.detach() - stored["output"]).abs().max() < 1e-6
    assert (layer.bases(x).detach() - stored["b_splines"]).abs().max() < 1e-6
    assert relative(x.grad, stored["input_grad"]) < 1e-5
    assert max(relative(p.grad, stored["param_grads"][key]) for key, p in layer.named_parameters()) < 1e-5
    assert float(layer.regularization().detach()) == pytest.approx(stored["reg_loss"], rel=1e-5)
    layer.update_grid(stored["input"])
    for key, value in stored["after_update_grid"].items():
        assert (layer.state_dict()[key] - value).abs().max() < 1e-5, key
    assert (layer(stored["input"]).detach() - stored["output_after_update_grid"]).abs().max() < 1e-5


def test_bases_sum_to_one_inside_and_vanish_outside() -> None:
    layer = KANLinear(1, 1).double()
    inside = torch.linspace(-1, 0.999, 50, dtype=torch.float64)[:, None]
    assert torch.allclose(layer.bases(inside).sum(-1), torch.ones(50, 1, dtype=torch.float64))
    assert layer.bases(torch.tensor([[-2.21], [2.2001], [7.0]], dtype=torch.float64)).abs().max() == 0


def test_a_grid_update_can_keep_the_function() -> None:
    torch.manual_seed(0)
    layer, x = KANLinear(2, 3).double(), torch.rand(400, 2, dtype=torch.float64) * 1.6 - 0.8
    with torch.no_grad():
        layer.spline_weight.mul_(20)
        before = layer(x)
        layer.update_grid(x, keep_function=True)
        assert relative(layer(x), before) < 0.02
        assert float(layer.grid[0, 3]) == pytest.approx(float(x[:, 0].min()), abs=0.02)


def test_a_grid_update_needs_points() -> None:
    with pytest.raises(InputRefused, match="more than 5 points"):
        KANLinear(2, 3).update_grid(torch.zeros(4, 2))


# --- diffusion U-KAN
# ------------------------------------------------------------------------------------------


def test_ukan_is_the_published_one(shared: Path) -> None:
    stored = torch.load(shared / "parity" / "ukan_hybrid_small.pt", weights_only=True)
    network = DiffusionUKAN(**stored["config"]).eval()
    network.load_state_dict(stored["state_dict"])
    x = stored["input"].clone().requires_grad_()
    output = network(x, stored["t"])
    published_loss(output).backward()
    assert (output.detach() - stored["output"]).abs().max() < 2e-5
    assert relative(x.grad, stored["input_grad"]) < 1e-5
    norms = {
        key: (float(p.grad.norm()), stored["grad_norms"][key])
        for key, p in network.named_parameters()
        if p.grad is not None
    }
    assert all(ours == pytest.approx(theirs, rel=1e-5, abs=1e-7) for ours, theirs in norms.values())
    assert [key for key, value in stored["grad_norms"].items() if key not in norms] == [
        "time_embedding.timembedding.0.weight"
    ]
    with torch.no_grad():
        exact = network.double()(stored["input"].double(), stored["t"])
    assert (exact - stored["output_fp64"]).abs().max() < 1e-8


def test_initial_moments_and_size_are_the_published_ones(shared: Path) -> None:
    stats = torch.load(shared / "parity" / "ukan_init_stats.pt", weights_only=True)["stats"]
    torch.manual_seed(0)
    state = DiffusionUKAN().state_dict()
    assert set(state) == set(stats)
    assert sum(v.numel() for k, v in state.items() if not k.endswith("grid")) == pytest.approx(
        26.9e6, rel=2e-3
    )
    for key, value in state.items():
        mean, std, largest = (float(v) for v in stats[key])
        sampling = std / value.numel() ** 0.5
        assert float(value.mean()) == pytest.approx(mean, abs=10 * sampling + 1e-7), key
        if value.numel() > 10_000:
            assert float(value.std()) == pytest.approx(std, rel=0.02, abs=1e-9), key
        assert float(value.abs().max()) == pytest.approx(largest, rel=0.35, abs=1e-6), key


@pytest.mark.parametrize("size", [8, 16, 24])
def test_any_size_that_the_strides_allow(size: int) -> None:
    network = DiffusionUKAN(**SMALL).eval()
    assert network(torch.zeros(1, 1, size, size), torch.tensor([3])).shape == (1, 1, size, size)
    with pytest.raises(InputRefused, match="divisible by 8"):
        network(torch.zeros(1, 1, size + 4, size), torch.tensor([3]))


def test_conditions_matter_and_can_be_dropped() -> None:
    torch.manual_seed(0)
    network = DiffusionUKAN(**SMALL, condition_channels=1, condition_features=3).eval()
    with torch.no_grad():
        network.tail[2].weight.normal_()
        for block in (*network.downblocks, *network.upblocks):
            if hasattr(block, "block2"):
                block.block2[3].weight.normal_(std=0.05)
        x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 17])
        masks, vectors = torch.rand(2, 2, 1, 8, 8), torch.randn(2, 2, 3)

        def predict(m: int, v: int, keep: list[bool] | None) -> Tensor:
            out: Tensor = network(x, t, masks[m], vectors[v], None if keep is None else torch.tensor(keep))
            return out

        kept = predict(0, 0, None)
        assert torch.equal(kept, predict(0, 0, [True, True]))
        assert not torch.allclose(kept, predict(1, 0, None))
        assert not torch.allclose(kept, predict(0, 1, None))
        dropped = predict(0, 0, [True, False])
        assert torch.allclose(dropped[0], kept[0], atol=1e-5)
        assert torch.allclose(predict(0, 0, [False, False]), predict(1, 1, [False, False]), atol=1e-5)
    with pytest.raises(InputRefused, match="condition_features=3"):
        network(x, t, masks[0])


def test_wrong_widths_are_named() -> None:
    with pytest.raises(UsageError, match=r"ch \* ch_mult\[-1\] = 64"):
        DiffusionUKAN(**(SMALL | {"embed_dims": [32, 32, 64]}))


def test_ukan_trains() -> None:
    torch.manual_seed(0)
    network, schedule = DiffusionUKAN(**SMALL), diffusion.linear_schedule(20)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    x0 = torch.ones(8, 1, 8, 8) * torch.tensor([1.0, -1.0]).repeat(4).reshape(-1, 1, 1, 1)
    losses = []
    for _ in range(40):
        loss = diffusion.loss_map(
            network, x0, torch.randint(0, 20, (8,)), torch.randn_like(x0), schedule
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


# --- diffusion
# ------------------------------------------------------------------------------------------


def test_diffusion_is_the_published_one(shared: Path) -> None:
    stored = torch.load(shared / "parity" / "diffusion.pt", weights_only=True)
    schedule = diffusion.linear_schedule()
    c1, c2 = schedule.mean_coefficients
    ours = {
        "betas": schedule.betas,
        "sqrt_alphas_bar": schedule.signal,
        "sqrt_one_minus_alphas_bar": schedule.noise,
        "coeff1": c1,
        "coeff2": c2,
        "posterior_var": schedule.posterior_variance,
    }
    for key, value in (stored["trainer_buffers"] | stored["sampler_buffers"]).items():
        assert (ours[key] - value).abs().max() < 1e-15, key
    squared = diffusion.loss_map(sine, stored["x0"], stored["t"], stored["noise"], schedule)
    assert (squared - stored["loss_map"]).abs().max() < 1e-6
    assert torch.equal(diffusion.published_loss(squared), squared.sum() / 1000)
    x, t = stored["xT"], stored["pmv_t"]
    assert (diffusion.ddpm_mean(sine(x, t), x, t, schedule) - stored["pmv_mean"]).abs().max() < 1e-6
    assert (diffusion.at_step(schedule.sampling_variance, t, x) - stored["pmv_var"]).abs().max() < 1e-9
    noises = stored["sampler_T20_noises_from_t19_down_to_t1"]
    sampled = diffusion.sample_ddpm(sine, x, diffusion.linear_schedule(20), noises=noises)
    assert (sampled - stored["sampler_T20_out"]).abs().max() < 1e-6


def test_learning_rate_is_the_published_trace(shared: Path) -> None:
    stored = torch.load(shared / "parity" / "lr_trace.pt", weights_only=True)["lrs"]
    for epochs, rates in stored.items():
        ours = [published_learning_rate(epoch, int(epochs)) for epoch in range(1, int(epochs) + 1)]
        assert max(abs(a - float(b)) for a, b in zip(ours, rates, strict=True)) < 1e-15


@pytest.mark.parametrize(
    "schedule", [diffusion.linear_schedule(1000), diffusion.cosine_schedule(1000)], ids=["linear", "cosine"]
)
def test_schedules_end_in_noise(schedule: diffusion.NoiseSchedule) -> None:
    assert bool((schedule.alphas_bar.diff() < 0).all())
    assert float(schedule.alphas_bar[0]) > 0.999
    assert float(schedule.alphas_bar[-1]) < 1e-4
    assert torch.allclose(schedule.signal**2 + schedule.noise**2, torch.ones(1000, dtype=torch.float64))


def perfect(
    x0: Tensor, schedule: diffusion.NoiseSchedule, prediction: diffusion.Parametrisation
) -> diffusion.Denoiser:
    """A denoiser that knows the image."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        noise = (x - diffusion.at_step(schedule.signal, t, x) * x0) / diffusion.at_step(schedule.noise, t, x)
        return diffusion.training_target(x0.expand_as(x), t, noise, schedule, prediction)

    return predict


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_samplers_return_to_the_image_that_a_perfect_denoiser_knows(
    prediction: diffusion.Parametrisation, steps: int
) -> None:
    g = torch.Generator().manual_seed(0)
    schedule = diffusion.cosine_schedule(100)
    x0 = torch.rand(2, 1, 4, 4, generator=g, dtype=torch.float64) * 1.8 - 0.9
    start = torch.randn(x0.shape, generator=g, dtype=torch.float64)
    model = perfect(x0, schedule, prediction)
    few = diffusion.sample_ddim(model, start, schedule, steps=steps, prediction=prediction)
    assert (few - x0).abs().max() < 1e-6
    noises = diffusion.standard_normal(start, generator=g)
    assert (
        diffusion.sample_ddpm(model, start, schedule, noises=noises, prediction=prediction) - x0
    ).abs().max() < 0.05


def test_few_steps_approach_many() -> None:
    """Data that are standard normal have the exact denoiser eps = noise_t x; DDIM then carries x_T to
    itself.
    """
    schedule = diffusion.linear_schedule()
    x = torch.tensor([-0.8, -0.2, 0.5]).double().reshape(1, 1, 1, 3)
    errors = []
    for steps in (10, 100, 1000):
        out = diffusion.sample_ddim(
            lambda x, t: diffusion.at_step(schedule.noise, t, x) * x, x, schedule, steps=steps, clip=False
        )
        errors.append(float((out - x).abs().max()))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.01
    with pytest.raises(UsageError, match="expected 1 to 1000"):
        diffusion.sample_ddim(sine, x, schedule, steps=1001)


def test_guidance_interpolates_and_exaggerates() -> None:
    x, t = torch.ones(1, 1, 2, 2), torch.tensor([0])
    guided = {
        s: diffusion.guided(lambda x, t: 3 * x, lambda x, t: x, s)(x, t)[0, 0, 0, 0].item()
        for s in (0.0, 1.0, 2.0)
    }
    assert guided == {0.0: 1.0, 1.0: 3.0, 2.0: 5.0}


def test_conditions_are_dropped_at_the_asked_rate() -> None:
    g = torch.Generator().manual_seed(0)
    assert float(diffusion.kept_conditions(20_000, 0.1, generator=g).float().mean()) == pytest.approx(
        0.9, abs=0.01
    )


def test_average_follows_slowly() -> None:
    average, network = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(5.0)
    update_average(average, network, decay=0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [5.0, 5.0]
