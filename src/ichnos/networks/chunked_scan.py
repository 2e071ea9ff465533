"""The selective scan in chunks: linear in time forward and backward, in little memory.

With dt = softplus(delta + delta_bias), for each channel d and state n (Gu & Dao 2023, eq. 2, zero-order hold
for A, Euler for B):

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        h_0 = 0
    y_t = sum_n C_t h_t + D u_t                     then y_t * silu(z_t)

The chunked form cuts time into segments, each segment into K chunks of T steps, and advances all chunks of a
segment in lock-step:

    pass 1   every chunk from a zero state            -> what the chunk adds to the state
    carry    start_{k+1} = exp(A sum_chunk dt) start_k + added_k
    pass 2   every chunk from its true start          -> y

Products of decays are exponentials of sums of dt A <= 0, so nothing is ever divided by a number that may have
underflowed. The backward pass keeps the inputs and one state per chunk, and recomputes the rest segment by
segment. In numbers of elements:

    kept between forward and backward     B D N ceil(L / T)       instead of B D N L
    working memory of backward            (2 T + 6) B D N K       one segment, whatever L is

softplus, skip and gate are computed segment by segment too, so that none of them keeps a tensor of its own.

Axis letters: b batch, d channel (g group, r channel within the group), n state, l time = (s segment, k chunk,
t step), j = (b k).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ichnos.networks.scan_parts import Chunking, Scanned, checked_inputs, skip_and_gate, step_sizes


def chunked_scan(
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
    """Scan all chunks of a segment in lock-step; same result as `sequential_scan`, linear in l forward and
    backward.
    """
    with torch.autocast(u.device.type, enabled=False):
        x = checked_inputs(u, delta, A, B, C)
        ends = [None if m is None else m.to(x.u.dtype) for m in (D, z, delta_bias)]
        y, last_state = cast(Any, _ChunkedScan).apply(x.u, x.delta, x.A, x.B, x.C, *ends, delta_softplus)
        return Scanned(y.to(u.dtype), last_state)


class _Laid(NamedTuple):
    """The recurrence's inputs in one segment, laid out for lock-step: j is contiguous."""

    dtu: Tensor  # (t, g, r, j)
    dt: Tensor  # (t, g, r, j)
    A: Tensor  # (n, g, r, 1): one scalar per row
    B: Tensor  # (t, n, g, 1, j)
    C: Tensor  # (t, n, g, 1, j)


def _lay_out(cut: Chunking, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> _Laid:
    groups = A.shape[1]
    u, dt = (cut.lay_out(x.unflatten(1, (groups, -1))) for x in (u, dt))
    B, C = (m.repeat_interleave(groups // m.shape[1], dim=1) if m.shape[1] < groups else m for m in (B, C))
    B, C = (cut.lay_out(m.transpose(1, 2)).unsqueeze(-2) for m in (B, C))
    return _Laid(u * dt, dt, A, B, C)


def _rows(A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """A (d, n) -> (n, g, r, 1)."""
    grouped: Tensor = A.t().unflatten(1, (max(B.shape[1], C.shape[1]), -1))
    return grouped.unsqueeze(-1).contiguous()


def _carry(
    start: Tensor, decay: Tensor, added: Tensor, batch: int, *, out: Tensor, backward: bool = False
) -> Tensor:
    """Chain the chunks of a segment: write the state (n, g, r, b) entering each into `out` (n, g, r, j),
    return the one that leaves.
    """
    decay, added, entering = (m.unflatten(-1, (batch, -1)) for m in (decay, added, out))
    chunks = range(added.shape[-1])
    for k in reversed(chunks) if backward else chunks:
        entering[..., k] = start
        start = torch.addcmul(added[..., k], decay[..., k], start)
    return start


def _advance(h: Tensor, decay: Tensor, x: _Laid, t: int) -> None:
    """h <- exp(dt A) h + dt u B, in place; `decay` receives exp(dt A)."""
    torch.mul(x.dt[t], x.A, out=decay).exp_()
    h.mul_(decay).addcmul_(x.B[t], x.dtu[t])


class _ChunkedScan(torch.autograd.Function):
    """Output and last state of the whole scan, with a backward that recomputes from the states at chunk
    starts.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        softplus: bool,
    ) -> tuple[Tensor, Tensor]:
        (batch, channels, length), states = u.shape, A.shape[1]
        cut = Chunking.of(length, batch * channels * states, u.device.type)
        rows = _rows(A, B, C)
        keep = any(ctx.needs_input_grad)
        shape = (*rows.shape[:-1], batch * cut.chunks)  # n g r j
        starts = u.new_empty(cut.segments if keep else 1, *shape)
        state, output = u.new_zeros(*shape[:-1], batch), u.new_empty(u.shape)
        for s in range(cut.segments):
            part = cut.part(s)
            u_s, delta_s, B_s, C_s, z_s = _cut(part, u, delta, B, C, z)
            x = _lay_out(cut, u_s, step_sizes(delta_s, bias, softplus), rows, B_s, C_s)
            y, state = _segment_forward(x, starts[s if keep else 0], state, batch)
            y = cut.restore(y, batch, u_s.shape[-1]).flatten(1, 2)
            output[..., part] = skip_and_gate(y, u_s, D, z_s)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, starts)
        ctx.cut, ctx.softplus = cut, softplus
        return output, state.permute(3, 1, 2, 0).flatten(1, 2).contiguous()  # n g r b -> b d n

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, A, B, C, D, z, bias, starts = ctx.saved_tensors
        cut, batch, rows = ctx.cut, u.shape[0], _rows(A, B, C)
        split = rows.shape[1:3]  # g r
        d_u, d_delta, d_B, d_C = (m.new_empty(m.shape) for m in (u, delta, B, C))
        d_z = None if z is None else z.new_empty(z.shape)
        d_rows, d_D, d_bias = (torch.zeros_like(m) for m in (rows, A[:, 0], A[:, 0]))
        g_end = grad_last.unflatten(1, split).permute(3, 1, 2, 0).contiguous()  # b g r n -> n g r b
        for s in reversed(range(cut.segments)):
            part = cut.part(s)
            u_s, delta_s, B_s, C_s, z_s, g_out = _cut(part, u, delta, B, C, z, grad_output)
            length, dt = u_s.shape[-1], step_sizes(delta_s, bias, ctx.softplus)
            g_y = g_out if z is None else g_out * F.silu(z_s)
            x = _lay_out(cut, u_s, dt, rows, B_s, C_s)
            gy = cut.lay_out(g_y.unflatten(1, split))
            y, grads, g_end = _segment_backward(x, gy, starts[s], g_end, batch, with_output=z is not None)
            d_dtu, d_dt = (cut.restore(g, batch, length).flatten(1, 2) for g in (grads.dtu, grads.dt))
            d_dt = torch.addcmul(d_dt, d_dtu, u_s)
            d_u[..., part] = d_dtu * dt if D is None else torch.addcmul(d_dtu * dt, g_y, D[:, None])
            d_delta[..., part] = d_dt * -torch.expm1(-dt) if ctx.softplus else d_dt
            if y is not None and d_z is not None:
                y = skip_and_gate(cut.restore(y, batch, length).flatten(1, 2), u_s, D, None)
                d_z[..., part] = torch.ops.aten.silu_backward(g_out * y, z_s)
            for whole, g in ((d_B, grads.B), (d_C, grads.C)):
                g = cut.restore(g.squeeze(-2), batch, length).transpose(1, 2)  # b g n l
                whole[..., part] = g.unflatten(1, (whole.shape[1], -1)).sum(2)
            d_rows += grads.A
            d_D += (g_y * u_s).sum((0, 2))
            d_bias += d_delta[..., part].sum((0, 2))
        d_A = d_rows.flatten(1).t()
        return (
            d_u,
            d_delta,
            d_A,
            d_B,
            d_C,
            None if D is None else d_D,
            d_z,
            None if bias is None else d_bias,
            None,
        )


def _cut(part: slice, *tensors: Any) -> tuple[Any, ...]:
    """Take one segment of each tensor that there is."""
    return tuple(None if m is None else m[..., part] for m in tensors)


def _segment_forward(x: _Laid, entering: Tensor, state: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Write the states at chunk starts into `entering` (n, g, r, j); return y (t, g, r, j) and the state
    that leaves (n, g, r, b).
    """
    steps = range(len(x.dt))
    decay, h = torch.empty_like(entering), torch.zeros_like(entering)
    one_chunk = state.shape == entering.shape
    if one_chunk:
        entering.copy_(state)
    else:
        for t in steps:
            _advance(h, decay, x, t)
        state = _carry(state, torch.exp(x.dt.sum(0) * x.A), h, batch, out=entering)
    h.copy_(entering)
    y = torch.empty_like(x.dt)
    for t in steps:
        _advance(h, decay, x, t)
        torch.sum(torch.mul(h, x.C[t], out=decay), 0, out=y[t])
    return y, h if one_chunk else state


def _segment_backward(
    x: _Laid, gy: Tensor, start: Tensor, g_end: Tensor, batch: int, *, with_output: bool
) -> tuple[Tensor | None, _Laid, Tensor]:
    """Return y once more if asked, the gradients of one segment, and the gradient of the state that entered
    it (n, g, r, b).

    With g_t = dL/dh_t = C_t gy_t + a_{t+1} g_{t+1} and w_t = g_t a_t h_{t-1}:
    dC = sum_d gy h, dB = sum_d g dtu, d(dtu) = sum_n g B, d(dt) = sum_n w A, dA = sum_{t, b} w dt.
    """
    steps = range(len(x.dt))
    decays, states = (x.dt.new_empty(len(steps), *start.shape) for _ in range(2))
    h, product = start.clone(), torch.empty_like(start)
    y = torch.empty_like(x.dt) if with_output else None
    for t in steps:
        _advance(h, decays[t], x, t)
        states[t].copy_(h)
        if y is not None:
            torch.sum(torch.mul(h, x.C[t], out=product), 0, out=y[t])
    g = torch.zeros_like(h)
    for t in reversed(steps):  # pass 1: what each chunk adds to the gradient of the state that enters it
        g.addcmul_(x.C[t], gy[t]).mul_(decays[t])
    entering = torch.empty_like(g)
    g_start = _carry(g_end, torch.exp(x.dt.sum(0) * x.A), g, batch, out=entering, backward=True)
    g, w_dt, grads = entering, torch.zeros_like(h), _Laid(*(torch.empty_like(m) for m in x))
    for t in reversed(steps):
        g.addcmul_(x.C[t], gy[t])  # now dL/dh_t
        torch.sum(torch.mul(states[t], gy[t], out=product), 2, keepdim=True, out=grads.C[t])
        torch.sum(torch.mul(g, x.dtu[t], out=product), 2, keepdim=True, out=grads.B[t])
        torch.sum(torch.mul(g, x.B[t], out=product), 0, out=grads.dtu[t])
        torch.mul(g.mul_(decays[t]), states[t - 1] if t else start, out=product)
        w_dt.addcmul_(product, x.dt[t])
        torch.sum(product.mul_(x.A), 0, out=grads.dt[t])
    torch.sum(w_dt, -1, keepdim=True, out=grads.A)
    return y, grads, g_start
