"""Selective scan, the recurrence at the heart of Mamba: a readable sequential twin and a fast chunked one.

With dt = softplus(delta + delta_bias), for each channel d and state n (Gu & Dao 2023, eq. 2, zero-order hold
for A, Euler for B):

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        h_0 = 0
    y_t = sum_n C_t h_t + D u_t                     then y_t * silu(z_t)

Axis letters: b batch, d channel, g group, n state, l time.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import Tensor

from ichnos.errors import UsageError
from ichnos.networks.chunked_scan import chunked_scan
from ichnos.networks.scan_export import exportable_scan
from ichnos.networks.scan_parts import Scanned, checked_inputs, skip_and_gate, step_sizes
from ichnos.networks.tracing import exporting, tracing


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Scanned:
    """Scan with the fastest form at hand: mamba-ssm's kernel on CUDA when it is installed, the chunked form
    anywhere else.

    u, delta, z (b, d, l); A (d, n); B, C (b, n, l) or grouped (b, g, n, l); D, delta_bias (d,).
    The computation is in at least float32, also under autocast.

    >>> x, state = torch.ones(1, 2, 5), torch.ones(1, 3, 5)
    >>> y, last = selective_scan(x, x, -torch.ones(2, 3), state, state)
    >>> y.shape, last.shape
    (torch.Size([1, 2, 5]), torch.Size([1, 2, 3]))
    """
    if exporting():
        return exportable_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    if tracing():
        raise UsageError(
            "torch.jit.trace would unroll the scan step by step: convert Mamba networks with"
            " ichnos.networks.export"
        )
    if u.is_cuda and mamba_ssm_available() and u.dtype != torch.float64:
        return mamba_ssm_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return chunked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)


def sequential_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Scanned:
    """Scan one step after the other, as the equations say; the oracle of every other form, with a backward
    that is quadratic in l.
    """
    with torch.autocast(u.device.type, enabled=False):
        x = checked_inputs(u, delta, A, B, C)
        dt = step_sizes(x.delta, delta_bias, delta_softplus)
        decay = torch.exp(torch.einsum("bdl,dn->bdln", dt, x.A))
        B_d, C_d = (m.repeat_interleave(dt.shape[1] // m.shape[1], dim=1) for m in (x.B, x.C))  # (b, d, n, l)
        increment = torch.einsum("bdl,bdnl->bdln", dt * x.u, B_d)
        h = x.u.new_zeros(dt.shape[0], *x.A.shape)  # (b, d, n)
        outputs = []
        for t in range(x.u.shape[-1]):
            h = decay[:, :, t] * h + increment[:, :, t]
            outputs.append((h * C_d[..., t]).sum(-1))
        return Scanned(skip_and_gate(torch.stack(outputs, dim=-1), x.u, D, z).to(u.dtype), h)


def mamba_ssm_available() -> bool:
    """Say whether mamba-ssm's compiled kernel can be imported."""
    return (
        importlib.util.find_spec("mamba_ssm") is not None
        and importlib.util.find_spec("selective_scan_cuda") is not None
    )


def mamba_ssm_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Scanned:
    """Scan with mamba-ssm's CUDA kernel (float32 state; float16, bfloat16 and float32 input)."""
    kernel = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    optional = [None if p is None else p.float() for p in (D, delta_bias)]
    with torch.autocast(u.device.type, enabled=False):
        same = [m.to(u.dtype) for m in (delta, B, C)]
        gate = None if z is None else z.to(u.dtype)
        output, last = kernel(
            u, same[0], A.float(), same[1], same[2], optional[0], gate, optional[1], delta_softplus, True
        )
    return Scanned(output, last)
