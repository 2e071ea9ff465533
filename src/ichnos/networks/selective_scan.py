"""Selective scan, the recurrence at the heart of Mamba: a readable sequential twin and a fast chunked one.

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

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ichnos.errors import UsageError
from ichnos.networks.tracing import exporting, tracing


class Scanned(NamedTuple):
    """What a scan returns: the output in the dtype of u, and the last state in the dtype of the
    computation.
    """

    output: Tensor  # (b, d, l)
    last_state: Tensor  # (b, d, n)


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
        from ichnos.networks.scan_export import exportable_scan

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


@dataclass(frozen=True)
class ScanInputs:
    """Inputs of the recurrence in the dtype of the computation, checked."""

    u: Tensor  # (b, d, l)
    delta: Tensor  # (b, d, l)
    A: Tensor  # (d, n)
    B: Tensor  # (b, g, n, l)
    C: Tensor  # (b, g, n, l)


def checked_inputs(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> ScanInputs:
    """Check shapes and raise everything to one dtype of at least float32."""
    (b, d, length), n = u.shape, A.shape[1]
    B, C = (m.unsqueeze(1) if m.dim() == 3 else m for m in (B, C))
    for name, given, expected in (("delta", delta.shape, u.shape), ("A", A.shape, (d, n))):
        if tuple(given) != tuple(expected):
            raise UsageError(
                f"{name} has shape {tuple(given)}, but u of shape {(b, d, length)} asks for {tuple(expected)}"
            )
    for name, m in (("B", B), ("C", C)):
        if m.dim() != 4 or m.shape[0] != b or m.shape[2:] != (n, length) or d % m.shape[1]:
            raise UsageError(
                f"{name} has shape {tuple(m.shape)}; expected ({b}, {n}, {length}),"
                f" or ({b}, groups, {n}, {length}) with groups that divide {d}"
            )
    dtype = torch.float32
    for tensor in (u, delta, A, B, C):
        dtype = torch.promote_types(dtype, tensor.dtype)
    return ScanInputs(u.to(dtype), delta.to(dtype), A.to(dtype), B.to(dtype), C.to(dtype))


def step_sizes(delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """Turn delta (b, d, l) into dt."""
    if delta_bias is not None:
        delta = delta + delta_bias.to(delta.dtype)[:, None]
    return F.softplus(delta) if delta_softplus else delta


def skip_and_gate(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip D u and apply the gate silu(z)."""
    if D is not None:
        y = y + u * D.to(u.dtype)[:, None]
    return y if z is None else y * F.silu(z.to(u.dtype))


# --- the chunked form
# ------------------------------------------------------------------------------------------

# Elements of one lock-step operation (b k d n), so that its operands stay in the second-level cache of a
# core; a GPU wants far more.
_STEP_ELEMENTS = {"cpu": 1 << 16, "cuda": 1 << 24}
_CHUNK_STEPS = 32  # T: one state in 32 is kept for backward


@dataclass(frozen=True)
class Chunking:
    """How time is cut: `segments` one after the other, each of `chunks` in lock-step, each of `steps`."""

    segments: int
    chunks: int
    steps: int

    @classmethod
    def of(cls, length: int, elements_per_step: int, device_type: str) -> Chunking:
        """Choose for a sequence of `length` with `elements_per_step` = b d n.

        >>> Chunking.of(4096, 1024, "cpu")
        Chunking(segments=2, chunks=64, steps=32)
        >>> Chunking.of(10, 1024, "cpu")
        Chunking(segments=1, chunks=3, steps=4)
        """
        steps = max(1, min(_CHUNK_STEPS, round((length + 0.75) ** 0.5 + 0.5)))
        wanted = -(-length // steps)
        chunks = max(
            1,
            min(wanted, _STEP_ELEMENTS.get(device_type, _STEP_ELEMENTS["cuda"]) // max(1, elements_per_step)),
        )
        return cls(max(1, -(-wanted // chunks)), chunks, steps)

    @property
    def span(self) -> int:
        """Steps in one segment."""
        return self.chunks * self.steps

    def part(self, segment: int) -> slice:
        """Where in time a segment is."""
        return slice(segment * self.span, (segment + 1) * self.span)

    def lay_out(self, x: Tensor) -> Tensor:
        """Lay out one segment, (b, ..., l) -> (t, ..., j): zeros are appended to l, where dt = 0 leaves
        the state as it is.
        """
        x = F.pad(x, (0, self.span - x.shape[-1])).unflatten(-1, (self.chunks, self.steps))
        order = (-1, *range(1, x.dim() - 2), 0, -2)
        return x.permute(*(i % x.dim() for i in order)).flatten(-2).contiguous()

    def restore(self, x: Tensor, batch: int, length: int) -> Tensor:
        """(t, ..., j) -> (b, ..., l): the inverse of `lay_out`."""
        x = x.unflatten(-1, (batch, self.chunks))
        order = (-2, *range(1, x.dim() - 2), -1, 0)
        return x.permute(*(i % x.dim() for i in order)).flatten(-2)[..., :length]


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
