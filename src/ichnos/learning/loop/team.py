"""Several processes that train one network together (torchrun); a training alone is a team of one."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ichnos.errors import IchnosError
from ichnos.files import atomic_file

T = TypeVar("T")
_POLL_S = 0.2


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

    def token(self) -> str:
        """Return a word that all members share and that no earlier call has given."""
        return f"{int(self.from_leader(float(secrets.randbelow(2**50)))):x}"

    def exchanged(
        self, own: dict[str, Any], folder: Path, token: str, *, wait_s: float = 86_400.0
    ) -> list[dict[str, Any]]:
        """Return what all members hold, through files in a folder that all of them see.

        A member may take hours longer than another: nobody waits in a collective, which has a time-out. The
        token was agreed on before the work.

        >>> ALONE.exchanged({"rows": 3}, Path("unused"), "any")
        [{'rows': 3}]
        """
        if self.size == 1:
            return [own]
        files = [folder / f"{token}-{rank}.json" for rank in range(self.size)]
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(files[self.rank]) as temporary:
            temporary.write_text(json.dumps(own), encoding="utf-8")
        began = time.monotonic()
        while late := [rank for rank, file in enumerate(files) if not file.is_file()]:
            if time.monotonic() - began > wait_s:
                hours = f"{wait_s / 3600:.3g} h"
                raise IchnosError(f"process {late[0]} has not finished its share within {hours}")
            time.sleep(_POLL_S)
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

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
