"""The fast scan equals the sequential one and the published one, forward and backward, in every
combination of its options.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ichnos.errors import UsageError
from ichnos.networks import scan_parts
from ichnos.networks import selective_scan as scan
from ichnos.networks.chunked_scan import chunked_scan
from ichnos.networks.scan_export import exportable_scan
from ichnos.networks.scan_parts import Chunking, Scanned
from ichnos.networks.selective_scan import selective_scan, sequential_scan

Inputs = dict[str, Tensor]


def made_inputs(
    b: int,
    d: int,
    n: int,
    length: int,
    *,
    groups: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    state = (b, n, length) if groups is None else (b, groups, n, length)
    inputs = {
        "u": draw(b, d, length),
        "delta": draw(b, d, length),
        "A": -torch.exp(draw(d, n)),
        "B": draw(*state),
        "C": draw(*state),
    }
    return inputs | {"D": draw(d), "z": draw(b, d, length), "delta_bias": draw(d)}


def gradients(
    form: Any, inputs: Inputs, grad_out: Tensor, grad_last: Tensor | None = None, **options: Any
) -> tuple[Scanned, Inputs]:
    leaves = {k: v.detach().clone().requires_grad_() for k, v in inputs.items()}
    result = form(**leaves, **options)
    loss = (result.output * grad_out).sum()
    if grad_last is not None:
        loss = loss + (result.last_state * grad_last).sum()
    loss.backward()
    return Scanned(*(r.detach() for r in result)), {
        k: v.grad for k, v in leaves.items() if v.grad is not None
    }


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))


@pytest.mark.parametrize("name", ["scan_basic", "scan_hard_decay"])
@pytest.mark.parametrize("form", [sequential_scan, chunked_scan, exportable_scan])
def test_output_is_the_published_one(shared: Path, name: str, form: Any) -> None:
    stored = torch.load(shared / "parity" / f"{name}.pt", weights_only=True)
    with torch.no_grad():
        result = form(
            **{k: v.double() for k, v in stored["inputs"].items()}, delta_softplus=stored["delta_softplus"]
        )
    assert (result.output - stored["output_fp64"]).abs().max() < 1e-8
    assert (result.last_state - stored["last_state_fp64"]).abs().max() < 1e-8


@pytest.mark.parametrize("name", ["scan_basic", "scan_hard_decay"])
def test_gradients_are_the_published_ones_in_float32(shared: Path, name: str) -> None:
    stored = torch.load(shared / "parity" / f"{name}.pt", weights_only=True)
    _, grads = gradients(
        chunked_scan, stored["inputs"], stored["grad_out"], delta_softplus=stored["delta_softplus"]
    )
    errors = {k: relative(grads[k], g) for k, g in stored["grads"].items()}
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 1500])
@pytest.mark.parametrize("groups", [None, 1, 2, 4])
def test_chunked_equals_sequential(length: int, groups: int | None) -> None:
    inputs = made_inputs(2, 4, 3, length, groups=groups)
    g = torch.Generator().manual_seed(1)
    grad_out, grad_last = (
        torch.randn(s, generator=g, dtype=torch.float64) for s in ((2, 4, length), (2, 4, 3))
    )
    expected, expected_grads = gradients(sequential_scan, inputs, grad_out, grad_last, delta_softplus=True)
    result, grads = gradients(chunked_scan, inputs, grad_out, grad_last, delta_softplus=True)
    assert relative(result.output, expected.output) < 1e-12
    assert relative(result.last_state, expected.last_state) < 1e-12
    errors = {k: relative(grads[k], v) for k, v in expected_grads.items()}
    assert max(errors.values()) < 1e-10, errors


@pytest.mark.parametrize("absent", [("z",), ("D",), ("delta_bias",), ("z", "D", "delta_bias"), ()])
@pytest.mark.parametrize("softplus", [True, False])
def test_every_option_is_as_in_the_sequential_twin(absent: tuple[str, ...], softplus: bool) -> None:
    inputs = {k: v for k, v in made_inputs(2, 4, 3, 45).items() if k not in absent}
    if not softplus:  # then delta itself is the step, which must not be negative
        inputs |= {k: inputs[k].abs() * 0.1 for k in ("delta", "delta_bias") if k in inputs}
    grad_out = torch.ones(2, 4, 45, dtype=torch.float64)
    expected, expected_grads = gradients(sequential_scan, inputs, grad_out, delta_softplus=softplus)
    result, grads = gradients(chunked_scan, inputs, grad_out, delta_softplus=softplus)
    with torch.no_grad():
        exported = exportable_scan(**inputs, delta_softplus=softplus)
    assert relative(result.output, expected.output) < 1e-12
    assert relative(exported.output, expected.output) < 1e-12
    assert relative(exported.last_state, expected.last_state) < 1e-12
    assert set(grads) == set(inputs)
    assert max(relative(grads[k], v) for k, v in expected_grads.items()) < 1e-10


def test_several_segments_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, grad_out = made_inputs(1, 4, 3, 700), torch.ones(1, 4, 700, dtype=torch.float64)
    expected, expected_grads = gradients(chunked_scan, inputs, grad_out, delta_softplus=True)
    monkeypatch.setitem(scan_parts._STEP_ELEMENTS, "cpu", 24)
    assert Chunking.of(700, 12, "cpu").segments > 5
    result, grads = gradients(chunked_scan, inputs, grad_out, delta_softplus=True)
    assert relative(result.output, expected.output) < 1e-12
    assert max(relative(grads[k], v) for k, v in expected_grads.items()) < 1e-10


def test_gradient_agrees_with_finite_differences() -> None:
    inputs = made_inputs(1, 2, 2, 9, groups=2)
    order = list(inputs)
    leaves = [inputs[k].requires_grad_() for k in order]
    assert torch.autograd.gradcheck(
        lambda *a: tuple(chunked_scan(**dict(zip(order, a, strict=True)), delta_softplus=True)), leaves
    )


def test_no_gradient_is_asked_of_constants() -> None:
    inputs = made_inputs(1, 4, 3, 50)
    inputs["u"].requires_grad_()
    chunked_scan(**inputs, delta_softplus=True).output.sum().backward()
    assert inputs["u"].grad is not None
    assert inputs["A"].grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    inputs = {k: v.to(dtype) for k, v in made_inputs(1, 4, 3, 200, dtype=torch.float32).items()}
    exact = sequential_scan(**{k: v.double() for k, v in inputs.items()}, delta_softplus=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = selective_scan(**inputs, delta_softplus=True)
    assert result.output.dtype == dtype
    assert result.last_state.dtype == torch.float32
    assert relative(result.last_state, exact.last_state) < 1e-5
    assert relative(result.output, exact.output) < 4 * torch.finfo(dtype).eps


def test_underflowing_decay_leaves_no_nan() -> None:
    inputs = made_inputs(1, 4, 3, 300, dtype=torch.float32)
    inputs["A"] = inputs["A"] * 1e4
    result, grads = gradients(chunked_scan, inputs, torch.ones(1, 4, 300), delta_softplus=True)
    assert result.output.isfinite().all()
    assert all(g.isfinite().all() for g in grads.values())


def test_between_forward_and_backward_only_inputs_and_chunk_starts_are_kept() -> None:
    b, d, n, length = 1, 8, 16, 2048
    inputs = {k: v.requires_grad_() for k, v in made_inputs(b, d, n, length, dtype=torch.float32).items()}
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        chunked_scan(**inputs, delta_softplus=True)
    steps = Chunking.of(length, b * d * n, "cpu").steps
    assert max(kept) < b * d * length * n
    assert sum(kept) <= sum(x.numel() for x in inputs.values()) + b * d * n * -(-length // steps)


def test_wrong_shapes_are_named() -> None:
    inputs = made_inputs(1, 4, 3, 10)
    with pytest.raises(UsageError, match=r"delta has shape \(1, 4, 9\)"):
        selective_scan(**(inputs | {"delta": inputs["delta"][..., :9]}))
    with pytest.raises(UsageError, match="groups that divide 4"):
        selective_scan(**(inputs | {"B": inputs["B"].unsqueeze(1).repeat(1, 3, 1, 1)}))


def test_fast_form_is_fast() -> None:
    """A loose bound that holds on a busy machine; benchmarks/scan.py measures the real ratios."""
    inputs = made_inputs(1, 64, 16, 4096, dtype=torch.float32)

    def seconds(form: Any) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            with torch.no_grad():
                form(**inputs, delta_softplus=True)
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(chunked_scan) * 3 < seconds(sequential_scan)


@pytest.mark.skipif(
    not (torch.cuda.is_available() and scan.mamba_ssm_available()), reason="needs CUDA and mamba-ssm"
)
def test_mamba_ssm_kernel_agrees() -> None:
    inputs = {k: v.cuda() for k, v in made_inputs(2, 8, 16, 500, dtype=torch.float32).items()}
    ours, theirs = (
        chunked_scan(**inputs, delta_softplus=True),
        scan.mamba_ssm_scan(**inputs, delta_softplus=True),
    )
    assert relative(theirs.output, ours.output) < 1e-4
    assert relative(theirs.last_state, ours.last_state) < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_cpu() -> None:
    inputs = made_inputs(2, 8, 16, 3000, dtype=torch.float32)
    on_gpu = chunked_scan(**{k: v.cuda() for k, v in inputs.items()}, delta_softplus=True)
    assert relative(on_gpu.output.cpu(), chunked_scan(**inputs, delta_softplus=True).output) < 1e-5
