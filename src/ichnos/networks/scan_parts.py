"""What every form of the selective scan shares: checked inputs, step sizes, gate, and how time is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ichnos.errors import UsageError


class Scanned(NamedTuple):
    """What a scan returns: the output in the dtype of u, and the last state in the dtype of the
    computation.
    """

    output: Tensor  # (b, d, l)
    last_state: Tensor  # (b, d, n)


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
    """Turn delta (b, d, l) into dt.

    >>> step_sizes(torch.ones(1, 2, 1), torch.tensor([0.0, 2.0]), False).flatten().tolist()
    [1.0, 3.0]
    """
    if delta_bias is not None:
        delta = delta + delta_bias.to(delta.dtype)[:, None]
    return F.softplus(delta) if delta_softplus else delta


def skip_and_gate(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add the skip D u and apply the gate silu(z)."""
    if D is not None:
        y = y + u * D.to(u.dtype)[:, None]
    return y if z is None else y * F.silu(z.to(u.dtype))


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
        """Steps in one segment.

        >>> Chunking(segments=2, chunks=64, steps=32).span
        2048
        """
        return self.chunks * self.steps

    def part(self, segment: int) -> slice:
        """Where in time a segment is.

        >>> Chunking(segments=2, chunks=64, steps=32).part(1)
        slice(2048, 4096, None)
        """
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
