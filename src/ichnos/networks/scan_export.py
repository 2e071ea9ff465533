"""The selective scan in a form that ONNX and OpenVINO can hold: no loop operator, nothing in place, shapes fixed.

Same cut as the chunked scan: chunks of at most 32 steps advance together and only these steps are unrolled, so that an inference engine may
fuse their elementwise chains. The states at chunk starts are a linear recurrence themselves, solved by the same cut once more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ichnos.networks.selective_scan import Scanned, finish_scan, prepare_scan

_UNROLLED = 32


def exportable_scan(
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
    """Scan as `sequential_scan` does, with a graph whose size does not grow with l beyond a few hundred nodes."""
    x = prepare_scan(u, delta, A, B, C, delta_bias, delta_softplus)
    (batch, _, length), groups = x.dt.shape, max(x.B.shape[1], x.C.shape[1])
    steps = max(1, min(_UNROLLED, round(length**0.5)))
    chunks = -(-length // steps)

    def lay_out(m: Tensor) -> Tensor:  # b ... l -> t ... j with j = (b k)
        m = F.pad(m, (0, steps * chunks - length)).unflatten(-1, (chunks, steps))
        return m.permute(m.dim() - 1, *range(1, m.dim() - 2), 0, m.dim() - 2).flatten(-2)

    def by_state(m: Tensor) -> tuple[Tensor, ...]:  # b g n l -> t times n g 1 j
        m = m.repeat_interleave(groups // m.shape[1], dim=1) if m.shape[1] != groups else m
        return lay_out(m.transpose(1, 2)).unsqueeze(-2).unbind(0)

    dt = lay_out(x.dt.unflatten(1, (groups, -1)))  # t g r j
    dtu = lay_out((x.dt * x.u).unflatten(1, (groups, -1))).unbind(0)
    A_rows = x.A.t().unflatten(1, (groups, -1)).unsqueeze(-1)  # n g r 1
    B_t, C_t = by_state(x.B), by_state(x.C)
    h = B_t[0] * dtu[0]
    for t in range(1, steps):
        h = torch.exp(dt[t] * A_rows) * h + B_t[t] * dtu[t]
    by_chunk = [m.unflatten(-1, (batch, chunks)).movedim(-1, 0) for m in (torch.exp(dt.sum(0) * A_rows), h)]  # k n g r b
    entering, last = entering_states(*by_chunk)
    h = entering.movedim(0, -1).flatten(-2)
    outputs = []
    for t in range(steps):
        h = torch.exp(dt[t] * A_rows) * h + B_t[t] * dtu[t]
        outputs.append((h * C_t[t]).sum(0))  # g r j
    y = torch.stack(outputs, dim=-1).unflatten(-2, (batch, chunks)).flatten(-2)[..., :length]  # g r b l
    return finish_scan(y.flatten(0, 1).transpose(0, 1), last.permute(3, 1, 2, 0).flatten(1, 2), x.u, D, z, u.dtype)


def entering_states(decay: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """Solve h_{k+1} = decay_k h_k + added_k from h_0 = 0 for k along the first axis; return all h_k and the one after the last.

    >>> entering_states(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.0]))
    (tensor([0., 1.]), tensor(1.5000))
    """
    count = decay.shape[0]
    if count <= _UNROLLED:
        return _unrolled(decay, added, torch.zeros_like(added[0]))
    chunks = -(-count // _UNROLLED)
    pad = [0] * (2 * decay.dim() - 1) + [chunks * _UNROLLED - count]
    decay_t, added_t = (  # t k ...: a padded step keeps the state
        F.pad(m, pad, value=v).unflatten(0, (chunks, _UNROLLED)).transpose(0, 1) for m, v in ((decay, 1.0), (added, 0.0))
    )
    whole = decay_t[0]
    for t in range(1, _UNROLLED):
        whole = whole * decay_t[t]
    starts, last = entering_states(whole, _unrolled(decay_t, added_t, torch.zeros_like(added_t[0]))[1])
    entering, _ = _unrolled(decay_t, added_t, starts)
    return entering.transpose(0, 1).flatten(0, 1)[:count], last


def _unrolled(decay: Tensor, added: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    entering = []
    for a, b in zip(decay.unbind(0), added.unbind(0), strict=True):
        entering.append(h)
        h = a * h + b
    return torch.stack(entering), h
