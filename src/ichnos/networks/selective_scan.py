"""Selective scan, the recurrence at the heart of Mamba: a readable sequential twin and a fast chunked one.

With dt = softplus(delta + delta_bias), for each channel d and state n (Gu & Dao 2023, eq. 2, zero-order hold for A, Euler for B):

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        h_0 = 0
    y_t = sum_n C_t h_t + D u_t                     then y_t * silu(z_t)

The chunked form cuts time into segments, each segment into K chunks of T steps, and advances all chunks of a segment in lock-step:

    pass 1   every chunk from a zero state            -> what the chunk adds to the state
    carry    start_{k+1} = exp(A sum_chunk dt) start_k + added_k
    pass 2   every chunk from its true start          -> y

Products of decays are exponentials of sums of dt A <= 0, so nothing is ever divided by a number that may have underflowed.
The backward pass keeps the inputs and one state per chunk, and recomputes the rest segment by segment. In numbers of elements:

    kept between forward and backward     B D N ceil(L / T)       instead of B D N L
    working memory of backward            (2 T + 6) B D N K       one segment, whatever L is

Axis letters: b batch, d channel (g group, r channel within the group), n state, l time = (s segment, k chunk, t step), j = (b k).
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
    """What a scan returns: the output in the dtype of u, and the last state in the dtype of the computation."""

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
    """Scan with the fastest form at hand: mamba-ssm's kernel on CUDA when it is installed, the chunked form anywhere else.

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
        raise UsageError("torch.jit.trace would unroll the scan step by step: convert Mamba networks with ichnos.networks.export")
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
    """Scan one step after the other, as the equations say; the oracle of every other form, with a backward that is quadratic in l."""
    with torch.autocast(u.device.type, enabled=False):
        x = prepare_scan(u, delta, A, B, C, delta_bias, delta_softplus)
        decay = torch.exp(torch.einsum("bdl,dn->bdln", x.dt, x.A))
        B_d, C_d = (m.repeat_interleave(x.dt.shape[1] // m.shape[1], dim=1) for m in (x.B, x.C))  # (b, d, n, l)
        increment = torch.einsum("bdl,bdnl->bdln", x.dt * x.u, B_d)
        h = x.u.new_zeros(x.dt.shape[0], *x.A.shape)  # (b, d, n)
        outputs = []
        for t in range(x.u.shape[-1]):
            h = decay[:, :, t] * h + increment[:, :, t]
            outputs.append((h * C_d[..., t]).sum(-1))
        return finish_scan(torch.stack(outputs, dim=-1), h, x.u, D, z, u.dtype)


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
    """Scan all chunks of a segment in lock-step; same result as `sequential_scan`, linear in l forward and backward."""
    with torch.autocast(u.device.type, enabled=False):
        x = prepare_scan(u, delta, A, B, C, delta_bias, delta_softplus)
        y, last_state = cast(Any, _ChunkedScan).apply(x.dt * x.u, x.dt, x.A, x.B, x.C)
        return finish_scan(y, last_state, x.u, D, z, u.dtype)


def mamba_ssm_available() -> bool:
    """Say whether mamba-ssm's compiled kernel can be imported."""
    return importlib.util.find_spec("mamba_ssm") is not None and importlib.util.find_spec("selective_scan_cuda") is not None


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
        output, last = kernel(u, same[0], A.float(), same[1], same[2], optional[0], gate, optional[1], delta_softplus, True)
    return Scanned(output, last)


@dataclass(frozen=True)
class ScanInputs:
    """Inputs of the recurrence in the dtype of the computation, checked."""

    u: Tensor  # (b, d, l)
    dt: Tensor  # (b, d, l)
    A: Tensor  # (d, n)
    B: Tensor  # (b, g, n, l)
    C: Tensor  # (b, g, n, l)


def prepare_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> ScanInputs:
    """Check shapes, raise everything to one dtype of at least float32, and turn delta into the step dt."""
    (b, d, length), n = u.shape, A.shape[1]
    B, C = (m.unsqueeze(1) if m.dim() == 3 else m for m in (B, C))
    for name, given, expected in (("delta", delta.shape, u.shape), ("A", A.shape, (d, n))):
        if tuple(given) != tuple(expected):
            raise UsageError(f"{name} has shape {tuple(given)}, but u of shape {(b, d, length)} asks for {tuple(expected)}")
    for name, m in (("B", B), ("C", C)):
        if m.dim() != 4 or m.shape[0] != b or m.shape[2:] != (n, length) or d % m.shape[1]:
            raise UsageError(
                f"{name} has shape {tuple(m.shape)}; expected ({b}, {n}, {length}),"
                f" or ({b}, groups, {n}, {length}) with groups that divide {d}"
            )
    dtype = torch.float32
    for tensor in (u, delta, A, B, C):
        dtype = torch.promote_types(dtype, tensor.dtype)
    dt = delta.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)[:, None]
    return ScanInputs(u.to(dtype), F.softplus(dt) if delta_softplus else dt, A.to(dtype), B.to(dtype), C.to(dtype))


def finish_scan(y: Tensor, last_state: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None, dtype: torch.dtype) -> Scanned:
    """Add the skip D u, apply the gate silu(z), and give the output the dtype of the input."""
    if D is not None:
        y = y + u * D.to(u.dtype)[:, None]
    if z is not None:
        y = y * F.silu(z.to(u.dtype))
    return Scanned(y.to(dtype), last_state)


# --- the chunked form ---------------------------------------------------------------------------------------------------------------------

# Elements of one lock-step operation (b k d n), so that its operands stay in the second-level cache of a core; a GPU wants far more.
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
        chunks = max(1, min(wanted, _STEP_ELEMENTS.get(device_type, _STEP_ELEMENTS["cuda"]) // max(1, elements_per_step)))
        return cls(max(1, -(-wanted // chunks)), chunks, steps)

    @property
    def padded(self) -> int:
        return self.segments * self.chunks * self.steps

    def lay_out(self, x: Tensor) -> Tensor:
        """(b, ..., l) -> (s, t, ..., j): zeros are appended to l, where dt = 0 leaves the state as it is."""
        x = F.pad(x, (0, self.padded - x.shape[-1]))
        x = x.unflatten(-1, (self.segments, self.chunks, self.steps))
        order = (-3, -1, *range(1, x.dim() - 3), 0, -2)
        return x.permute(*(i % x.dim() for i in order)).flatten(-2).contiguous()

    def restore(self, x: Tensor, batch: int, length: int) -> Tensor:
        """(s, t, ..., j) -> (b, ..., l): the inverse of `lay_out`."""
        x = x.unflatten(-1, (batch, self.chunks))
        order = (-2, *range(2, x.dim() - 2), 0, -1, 1)
        return x.permute(*(i % x.dim() for i in order)).flatten(-3)[..., :length].contiguous()


class _Laid(NamedTuple):
    """The recurrence's inputs, laid out for lock-step: j is contiguous, A is one scalar per row."""

    dtu: Tensor  # (s, t, g, r, j)
    dt: Tensor  # (s, t, g, r, j)
    A: Tensor  # (n, g, r, 1)
    B: Tensor  # (s, t, n, g, 1, j)
    C: Tensor  # (s, t, n, g, 1, j)


def _lay_out(cut: Chunking, dtu: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> _Laid:
    groups = max(B.shape[1], C.shape[1])
    B, C = (m.repeat_interleave(groups // m.shape[1], dim=1) for m in (B, C))
    dtu, dt = (cut.lay_out(x.unflatten(1, (groups, -1))) for x in (dtu, dt))
    B, C = (cut.lay_out(m.transpose(1, 2)).unsqueeze(-2) for m in (B, C))
    return _Laid(dtu, dt, A.t().unflatten(1, (groups, -1)).unsqueeze(-1).contiguous(), B, C)


def _carry(start: Tensor, decay: Tensor, added: Tensor, batch: int, *, backward: bool = False) -> tuple[Tensor, Tensor]:
    """Chain the chunks of a segment: state (n, g, r, b) entering each chunk (n, g, r, j), and the one that leaves the segment."""
    decay, added = decay.unflatten(-1, (batch, -1)), added.unflatten(-1, (batch, -1))
    entering = torch.empty_like(added)
    chunks = range(added.shape[-1])
    for k in reversed(chunks) if backward else chunks:
        entering[..., k] = start
        start = torch.addcmul(added[..., k], decay[..., k], start)
    return entering.flatten(-2), start


def _advance(h: Tensor, decay: Tensor, x: _Laid, s: int, t: int) -> None:
    """h <- exp(dt A) h + dt u B, in place; `decay` receives exp(dt A)."""
    torch.mul(x.dt[s, t], x.A, out=decay).exp_()
    h.mul_(decay).addcmul_(x.B[s, t], x.dtu[s, t])


class _ChunkedScan(torch.autograd.Function):
    """y and last state of the bare recurrence, with a backward that recomputes from the states at chunk starts."""

    @staticmethod
    def forward(ctx: Any, dtu: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        (batch, channels, length), states = dt.shape, A.shape[1]
        cut = Chunking.of(length, batch * channels * states, dt.device.type)
        x = _lay_out(cut, dtu, dt, A, B, C)
        keep = any(ctx.needs_input_grad)
        shape = (states, *x.dt.shape[2:])  # n g r j
        start = x.dt.new_zeros(*shape[:-1], batch)
        y = torch.empty_like(x.dt)
        decay, h = x.dt.new_empty(shape), x.dt.new_empty(shape)
        starts = []
        for s in range(cut.segments):
            if cut.chunks > 1:
                h.zero_()
                for t in range(cut.steps):
                    _advance(h, decay, x, s, t)
                whole_chunk = torch.exp(x.dt[s].sum(0) * x.A)
                entering, start = _carry(start, whole_chunk, h, batch)
            else:
                entering = start
            if keep:
                starts.append(entering)
            h.copy_(entering)
            for t in range(cut.steps):
                _advance(h, decay, x, s, t)
                torch.sum(torch.mul(h, x.C[s, t], out=decay), 0, out=y[s, t])
            if cut.chunks == 1:
                start = h.clone()
        ctx.save_for_backward(dtu, dt, A, B, C, *starts)
        ctx.cut = cut
        last_state = start.permute(3, 1, 2, 0).flatten(1, 2)  # n g r b -> b d n
        return cut.restore(y, batch, length).flatten(1, 2), last_state.contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        dtu, dt, A, B, C, *starts = ctx.saved_tensors
        cut, (batch, _, length) = ctx.cut, dt.shape
        x = _lay_out(cut, dtu, dt, A, B, C)
        groups = x.dt.shape[2]
        gy = cut.lay_out(grad_y.unflatten(1, (groups, -1)))
        g_end = grad_last.unflatten(1, (groups, -1)).permute(3, 1, 2, 0).contiguous()  # b g r n -> n g r b
        grads = _Laid(*(torch.zeros_like(m) for m in x))
        for s in reversed(range(cut.segments)):
            g_end = _segment_backward(x, gy, grads, starts[s], g_end, s, batch)
        d_dtu, d_dt = (cut.restore(g, batch, length).flatten(1, 2) for g in (grads.dtu, grads.dt))
        d_B, d_C = (cut.restore(g.squeeze(-2), batch, length).transpose(1, 2) for g in (grads.B, grads.C))
        d_B, d_C = (g.unflatten(1, (m.shape[1], -1)).sum(2) for g, m in ((d_B, B), (d_C, C)))
        return d_dtu, d_dt, grads.A.flatten(1).t(), d_B, d_C


def _segment_backward(x: _Laid, gy: Tensor, grads: _Laid, start: Tensor, g_end: Tensor, s: int, batch: int) -> Tensor:
    """Write the gradients of one segment; return the gradient of the state that entered it (n, g, r, b).

    With g_t = dL/dh_t = C_t gy_t + a_{t+1} g_{t+1} and w_t = g_t a_t h_{t-1}:
    dC = sum_d gy h, dB = sum_d g dtu, d(dtu) = sum_n g B, d(dt) = sum_n w A, dA = sum_{t, b} w dt.
    """
    steps = range(x.dt.shape[1])
    decays, states = (x.dt.new_empty(len(steps), *start.shape) for _ in range(2))
    h = start.clone()
    for t in steps:
        _advance(h, decays[t], x, s, t)
        states[t].copy_(h)
    g = torch.zeros_like(h)
    for t in reversed(steps):  # pass 1: what each chunk adds to the gradient of the state that enters it
        g.addcmul_(x.C[s, t], gy[s, t]).mul_(decays[t])
    g, g_start = _carry(g_end, torch.exp(x.dt[s].sum(0) * x.A), g, batch, backward=True)
    product, w_dt = torch.empty_like(h), torch.zeros_like(h)
    for t in reversed(steps):
        g.addcmul_(x.C[s, t], gy[s, t])  # now dL/dh_t
        torch.sum(torch.mul(states[t], gy[s, t], out=product), 2, keepdim=True, out=grads.C[s, t])
        torch.sum(torch.mul(g, x.dtu[s, t], out=product), 2, keepdim=True, out=grads.B[s, t])
        torch.sum(torch.mul(g, x.B[s, t], out=product), 0, out=grads.dtu[s, t])
        torch.mul(g.mul_(decays[t]), states[t - 1] if t else start, out=product)
        w_dt.addcmul_(product, x.dt[s, t])
        torch.sum(product.mul_(x.A), 0, out=grads.dt[s, t])
    grads.A.add_(w_dt.sum(-1, keepdim=True))
    return g_start
