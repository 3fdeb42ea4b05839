"""Data-parallel training over processes of one machine: every member computes a batch, gradients are averaged.

One process with one torch thread per core is faster than one process with a thread per core here: small matrix
products gain little from threads, and threads wait for each other on a busy machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor

if TYPE_CHECKING:
    from vla.training.options import TrainOptions

_TIMEOUT = timedelta(hours=1)  # the leader may be measuring, or rolling out in simulation, meanwhile


class Team:
    """The processes that train one model together. Member 0 leads: its clock counts, and it alone writes files."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """A member; alone by default."""
        self.rank = rank
        self.size = size
        self._buffer: Tensor | None = None

    @property
    def leads(self) -> bool:
        """Whether this member writes files and messages."""
        return self.rank == 0

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the leader through the block before the others, for what must be written once."""
        if self.size > 1 and not self.leads:
            torch.distributed.barrier()
        yield
        if self.size > 1 and self.leads:
            torch.distributed.barrier()

    def average(self, tensors: Sequence[Tensor], seconds: float) -> float:
        """Average ``tensors`` over the team in place; returns the leader's ``seconds``."""
        if self.size == 1:
            return seconds
        count = sum(tensor.numel() for tensor in tensors)
        if self._buffer is None:
            self._buffer = torch.empty(count + 1)
        buffer = self._buffer
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=buffer[:count])
        buffer[count] = seconds if self.leads else 0.0
        torch.distributed.all_reduce(buffer)
        buffer[:count] /= self.size
        place = 0
        for tensor in tensors:
            tensor.copy_(buffer[place : place + tensor.numel()].view_as(tensor))
            place += tensor.numel()
        return float(buffer[count])


@contextlib.contextmanager
def gathered(options: TrainOptions) -> Iterator[Team]:
    """Start the other members, and yield the leader's view; they end with the block."""
    if options.processes == 1:
        yield Team()
        return
    options.out.mkdir(parents=True, exist_ok=True)
    meeting = options.out / "meeting"
    meeting.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    members = [
        context.Process(target=_member, args=(options, rank), name=f"train-{rank}", daemon=True)
        for rank in range(1, options.processes)
    ]
    for member in members:
        member.start()
    try:
        with _joined(options, 0) as team:
            yield team
            for member in members:
                member.join(60.0)
    finally:
        for member in members:
            if member.is_alive():
                member.terminate()
        meeting.unlink(missing_ok=True)


@contextlib.contextmanager
def _joined(options: TrainOptions, rank: int) -> Iterator[Team]:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{(options.out / 'meeting').resolve()}",
        rank=rank,
        world_size=options.processes,
        timeout=_TIMEOUT,
    )
    try:
        yield Team(rank, options.processes)
    finally:
        torch.distributed.destroy_process_group()


def _member(options: TrainOptions, rank: int) -> None:
    """Another member's process."""
    from vla.training.train import train_as

    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    with _joined(options, rank) as team:
        train_as(dataclasses.replace(options, quiet=True), team)
