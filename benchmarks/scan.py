"""Selective scan: ours against the sequential twin and the naive indexed loop, in time and in memory; one
thread, float32.

python benchmarks/scan.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ichnos.networks.chunked_scan import chunked_scan
from ichnos.networks.scan_parts import Chunking, Scanned
from ichnos.networks.selective_scan import sequential_scan
from run import table

BATCH, CHANNELS, STATES = 1, 64, 16


def naive_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Scanned:
    """Index every step out of a (b, d, l, n) tensor, as reference implementations do; its backward is
    quadratic in l.
    """
    decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    increment = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    h, outputs = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[-1]):
        h = decay[:, :, t] * h + increment[:, :, t]
        outputs.append(torch.einsum("bdn,bn->bd", h, C[:, :, t]))
    return Scanned(torch.stack(outputs, dim=2), h)


def made_inputs(length: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(BATCH, CHANNELS, length, generator=g) for _ in range(2))
    A = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    B, C = (torch.randn(BATCH, STATES, length, generator=g) for _ in range(2))
    return [u, F.softplus(delta - 3), A, B, C]


def milliseconds(
    form: Callable[..., Scanned], inputs: list[Tensor], *, backward: bool, repeats: int
) -> float:
    """Best of several runs."""
    best = float("inf")
    for _ in range(repeats):
        leaves = [x.clone().requires_grad_(backward) for x in inputs]
        start = time.perf_counter()
        with torch.set_grad_enabled(backward):
            output = form(*leaves).output
            if backward:
                output.sum().backward()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def kept_megabytes(form: Callable[..., Scanned], inputs: list[Tensor]) -> float:
    """Memory held for the backward pass, beyond the inputs themselves."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    leaves = [x.clone().requires_grad_() for x in inputs]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = form(*leaves)
    for leaf in leaves:
        storages.pop(leaf.untyped_storage().data_ptr(), None)
    del result
    return sum(storages.values()) / 2**20


def main() -> list[dict[str, object]]:
    """Rows: what, sequence length, value, and the ratio to the chunked form in the same run."""
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for length in (4096, 16384):
        inputs = made_inputs(length)
        ours = milliseconds(chunked_scan, inputs, backward=False, repeats=7)
        twin = milliseconds(sequential_scan, inputs, backward=False, repeats=3)
        both = milliseconds(chunked_scan, inputs, backward=True, repeats=5)
        bare = {"unit": "ms", "length": length}
        rows.append({"name": "forward, chunked", "value": ours, **bare, "ratio": None, "must reach": ""})
        rows.append(
            {
                "name": "forward, sequential twin",
                "value": twin,
                **bare,
                "ratio": twin / ours,
                "must reach": ">= 5 x ours",
            }
        )
        rows.append(
            {
                "name": "forward + backward, chunked",
                "value": both,
                **bare,
                "ratio": both / ours,
                "must reach": "<= 5 x its forward",
            }
        )
        if length == 4096:
            slow = milliseconds(naive_scan, inputs, backward=True, repeats=1)
            rows.append(
                {
                    "name": "forward + backward, naive loop",
                    "value": slow,
                    **bare,
                    "ratio": slow / both,
                    "must reach": ">= 100 x ours",
                }
            )
        kept = kept_megabytes(chunked_scan, inputs)
        full = BATCH * CHANNELS * STATES * length * 4 / 2**20
        steps = Chunking.of(length, BATCH * CHANNELS * STATES, "cpu").steps
        starts = full / steps
        rows.append(
            {
                "name": "kept for backward",
                "value": kept,
                "unit": "MiB",
                "length": length,
                "ratio": full / kept,
                "must reach": "< (b,d,l,n)",
            }
        )
        rows.append(
            {
                "name": f"of which chunk starts, B D N L / {steps}",
                "value": starts,
                "unit": "MiB",
                "length": length,
                "ratio": full / starts,
            }
        )
    return rows


if __name__ == "__main__":
    print(table(main()))
