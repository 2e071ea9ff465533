"""Several processes that train one network together (torchrun); a training alone is a team of one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


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
        told = self._number(value)
        dist.broadcast(told, 0)
        return float(told.item())

    def wait(self) -> None:
        """Wait until every member is here."""
        if self.size > 1:
            dist.barrier()

    def _number(self, value: float) -> torch.Tensor:
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        return torch.tensor([value], dtype=torch.float64, device=device)


ALONE = Team()
