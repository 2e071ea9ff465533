"""The selective scan in a form that ONNX and OpenVINO can hold: no loop operator, nothing in place, shapes
fixed.

Same cut as the chunked scan: chunks of at most 32 steps advance together and only these steps are unrolled,
so that an inference engine may fuse their elementwise chains. The states at chunk starts are a linear
recurrence themselves, solved by the same cut once more. For torch's exporter the recurrence is one operator,
`ichnos::recurrence`; `OnnxRecurrence` spells it out in ONNX, node by node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ichnos.networks.scan_parts import Chunking, Scanned, checked_inputs, skip_and_gate, step_sizes

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
    """Scan as `sequential_scan` does, around one operator that `OnnxRecurrence` translates."""
    x = checked_inputs(u, delta, A, B, C)
    dt = step_sizes(x.delta, delta_bias, delta_softplus)
    (batch, _, length), groups = dt.shape, max(x.B.shape[1], x.C.shape[1])
    steps = max(1, min(_UNROLLED, round(length**0.5)))
    cut = Chunking(segments=1, chunks=-(-length // steps), steps=steps)
    dtu_t, dt_t = (cut.lay_out(m.unflatten(1, (groups, -1))) for m in (dt * x.u, dt))  # t g r j
    B_t, C_t = (
        cut.lay_out(m.repeat_interleave(groups // m.shape[1], dim=1).transpose(1, 2)).unsqueeze(-2)
        for m in (x.B, x.C)
    )
    A_rows = x.A.t().unflatten(1, (groups, -1)).unsqueeze(-1)  # n g r 1
    y, last = recurrence(dtu_t, dt_t, A_rows, B_t, C_t, batch)  # t g r j, n g r b
    y = skip_and_gate(cut.restore(y, batch, length).flatten(1, 2), x.u, D, z)
    return Scanned(y.to(u.dtype), last.permute(3, 1, 2, 0).flatten(1, 2))


@torch.library.custom_op("ichnos::recurrence", mutates_args=())
def recurrence(dtu: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Solve the scan's recurrence: dtu, dt (t, g, r, j); A (n, g, r, 1); B, C (t, n, g, 1, j); j = (b k).

    Returns y (t, g, r, j) and the last state (n, g, r, b): a plain rendering for the exporter's own checks,
    and what the translation does.
    """
    added = torch.zeros_like(B[0] * dtu[0])  # n g r j
    for t in range(len(dt)):
        added = torch.exp(dt[t] * A) * added + B[t] * dtu[t]
    whole, added = (m.unflatten(-1, (batch, -1)) for m in (torch.exp(dt.sum(0) * A), added))  # n g r b k
    state, entering = torch.zeros_like(added[..., 0]), []
    for k in range(added.shape[-1]):
        entering.append(state)
        state = whole[..., k] * state + added[..., k]
    h, outputs = torch.stack(entering, dim=-1).flatten(-2), []
    for t in range(len(dt)):
        h = torch.exp(dt[t] * A) * h + B[t] * dtu[t]
        outputs.append((h * C[t]).sum(0))
    return torch.stack(outputs), state


@recurrence.register_fake
def _(dtu: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(dt), dt.new_empty(*A.shape[:3], batch)


@dataclass(frozen=True)
class OnnxRecurrence:
    """Translation of `ichnos::recurrence` into the operators of an onnxscript opset, for
    `torch.onnx.export`.
    """

    op: Any  # an opset of onnxscript; its methods add nodes to the graph that is being built

    def __call__(self, dtu: Any, dt: Any, A: Any, B: Any, C: Any, batch: int) -> Any:
        op = self.op
        steps, groups, rows, lanes = (int(n) for n in dt.shape)
        states, chunks = int(A.shape[0]), lanes // batch
        steps_dt, steps_dtu, steps_B, steps_C = (self.parts(m, steps) for m in (dt, dtu, B, C))

        def advance(h: Any, t: int) -> Any:
            increment = op.Mul(steps_B[t], steps_dtu[t])
            return increment if h is None else op.Add(op.Mul(op.Exp(op.Mul(steps_dt[t], A)), h), increment)

        h = None
        for t in range(steps):
            h = advance(h, t)
        whole = op.Exp(op.Mul(op.ReduceSum(dt, self.integers(0), keepdims=0), A))
        width = states * groups * rows * batch
        whole, h = (
            op.Transpose(op.Reshape(m, self.integers(width, chunks)), perm=[1, 0]) for m in (whole, h)
        )  # k (n g r b)
        entering, last = self.entering_states(whole, h, chunks, width)
        h = op.Reshape(op.Transpose(entering, perm=[1, 0]), self.integers(states, groups, rows, lanes))
        outputs = []
        for t in range(steps):
            h = advance(h, t)
            outputs.append(op.ReduceSum(op.Mul(h, steps_C[t]), self.integers(0), keepdims=0))
        return self.joined(outputs), op.Reshape(last, self.integers(states, groups, rows, batch))

    def entering_states(self, decay: Any, added: Any, count: int, width: int) -> tuple[Any, Any]:
        """Solve h_{k+1} = decay_k h_k + added_k from 0, both (count, width); return all h_k and the one
        after the last.
        """
        op = self.op
        if count <= _UNROLLED:
            return self.unrolled(decay, added, count, None)
        chunks = -(-count // _UNROLLED)
        pads = self.integers(0, 0, chunks * _UNROLLED - count, 0)

        def by_step(m: Any, filling: float) -> Any:  # k w -> t (k' w); a padded step keeps the state
            split = op.Reshape(
                op.Pad(m, pads, op.Constant(value_float=filling)), self.integers(chunks, _UNROLLED, width)
            )
            return op.Reshape(op.Transpose(split, perm=[1, 0, 2]), self.integers(_UNROLLED, chunks * width))

        decay_t, added_t = by_step(decay, 1.0), by_step(added, 0.0)
        _, ends = self.unrolled(decay_t, added_t, _UNROLLED, None)
        whole = op.ReduceProd(decay_t, self.integers(0), keepdims=0)
        whole, ends = (op.Reshape(m, self.integers(chunks, width)) for m in (whole, ends))
        starts, last = self.entering_states(whole, ends, chunks, width)
        entering, _ = self.unrolled(
            decay_t, added_t, _UNROLLED, op.Reshape(starts, self.integers(chunks * width))
        )
        split = op.Transpose(op.Reshape(entering, self.integers(_UNROLLED, chunks, width)), perm=[1, 0, 2])
        ordered = op.Reshape(split, self.integers(chunks * _UNROLLED, width))
        return op.Slice(ordered, self.integers(0), self.integers(count), self.integers(0)), last

    def unrolled(self, decay: Any, added: Any, count: int, h: Any) -> tuple[Any, Any]:
        op = self.op
        decays, increments = self.parts(decay, count), self.parts(added, count)
        if h is None:
            h = op.Sub(increments[0], increments[0])
        entering = []
        for a, b in zip(decays, increments, strict=True):
            entering.append(h)
            h = op.Add(op.Mul(a, h), b)
        return self.joined(entering), h

    def parts(self, x: Any, count: int) -> list[Any]:
        """Cut along the first axis, which goes."""
        return [self.op.Gather(x, self.op.Constant(value_int=i), axis=0) for i in range(count)]

    def joined(self, parts: list[Any]) -> Any:
        """Stack along a new first axis."""
        return self.op.Concat(*(self.op.Unsqueeze(part, self.integers(0)) for part in parts), axis=0)

    def integers(self, *values: int) -> Any:
        return self.op.Constant(value_ints=list(values))
