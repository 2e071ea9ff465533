"""Several processes that train one network together (torchrun); a training alone is a team of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """Who this process is among those that train together. The process group is opened and closed by the
    caller.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Say whether this process writes files and validates."""
        return self.rank == 0

    def shared(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network with gradients averaged over the team; all members start from the leader's
        weights.
        """
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # The heads of deep supervision take no part where it is off.
        return DistributedDataParallel(network, find_unused_parameters=True)

    def any(self, condition: bool) -> bool:
        """Say whether the condition holds for any member, so that all of them act alike."""
        if self.size == 1:
            return condition
        flag = self._number(float(condition))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item() > 0)

    def from_leader(self, value: float) -> float:
        """Return the leader's value."""
        if self.size == 1:
            return value
        number = self._number(value)
        dist.broadcast(number, 0)
        return float(number.item())

    def gathered(self, own: list[T]) -> list[T]:
        """Return what all members hold, in the order of their ranks.

        >>> ALONE.gathered([1, 2])
        [1, 2]
        """
        if self.size == 1:
            return own
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, own)
        return [item for part in parts for item in part]

    def share(self, items: Sequence[T]) -> list[T]:
        """Return this member's part of some items.

        >>> Team(rank=1, size=2).share("abcde")
        ['b', 'd']
        """
        return list(items[self.rank :: self.size])

    def wait(self) -> None:
        """Wait until every member is here."""
        if self.size > 1:
            dist.barrier()

    def _number(self, value: float) -> torch.Tensor:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return torch.tensor([value], dtype=torch.float64, device=device)


ALONE = Team()
