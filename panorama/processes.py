"""One training in several processes, as `torchrun` or `accelerate launch` start it: who this process is, and what they share.

Every process runs the same code. Work is cut into consecutive shares and gathered in order, the first process alone writes, and in
a single process everything here does nothing.
"""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

_PATIENCE = timedelta(days=1)  # while one process decodes, the others wait
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class Team:
    """This process is number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
        """This process's consecutive part of `items`; together the parts are all of them, in order."""
        part: npt.NDArray[_Number] = np.array_split(items, self.count)[self.rank]
        return part

    def gather(self, rows: npt.NDArray[np.float32], total: int) -> npt.NDArray[np.float32]:
        """(total, width): the rows of every process's `share` of `total` items, in order, in every process."""
        if self.count == 1:
            return rows
        longest = -(-total // self.count)
        padded = torch.zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = torch.from_numpy(rows)
        found = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(found, padded)
        lengths = [len(part) for part in np.array_split(np.arange(total), self.count)]
        return torch.cat([part[:length] for part, length in zip(found, lengths, strict=True)]).numpy()

    def collect(self, items: list[Any]) -> list[Any]:
        """Every process's items, in order, in the first process; nothing in the others."""
        if self.count == 1:
            return items
        found: list[list[Any]] | None = [[] for _ in range(self.count)] if self.is_first else None
        dist.gather_object(items, found)
        return [item for part in found or [] for item in part]

    def all(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Element by element, whether it is so in every process."""
        if self.count == 1:
            return flags
        values = torch.from_numpy(flags.astype(np.uint8))
        dist.all_reduce(values, dist.ReduceOp.MIN)
        return values.numpy().astype(bool)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return not self.all(np.array([not flag]))[0]

    def mean(self, value: float) -> float:
        """The mean of every process's value; not a number when one of them is none."""
        if self.count == 1:
            return value
        values = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(values)
        return float(values) / self.count

    def align(self, model: torch.nn.Module) -> None:
        """Gives every process the first one's buffers: each has counted BatchNorm statistics of its own share."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def from_first(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()


ALONE = Team()


def join() -> Team:
    """The team this process was started in: the one its launcher describes in the environment, or itself alone."""
    count = int(os.environ.get("WORLD_SIZE") or 1)
    if count == 1:
        return ALONE
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # how the launcher ends the others when one is lost
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    return Team(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Ends what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()
