"""The processes that train one model together: how many there are, which one this is, and what they exchange.

`torchrun` starts them and tells each one its rank in the environment.
"""

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from utils.errors import UserError

SECONDS_BEFORE_LINE = 30
MEETING = datetime.timedelta(minutes=10)  # until all processes have started
EXCHANGE = datetime.timedelta(hours=3)  # until all have decoded their part of the photographs
EXIT_TIMEOUT = datetime.timedelta(seconds=5)  # with the other processes, at the end


@dataclass(frozen=True)
class Distributed:
    """One process of `world_size`, number `rank`; a single process unless torchrun says otherwise."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls):
        """Join the process group. Tensors on GPUs are exchanged by NCCL, those on CPUs by gloo.

        Raises:
            UserError: the environment is not as torchrun makes it.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls()
        for name in ("WORLD_SIZE", "RANK", "MASTER_PORT", "MASTER_ADDR"):
            value = os.environ.get(name)
            if not value or (name != "MASTER_ADDR" and not value.isdecimal()):
                raise UserError(f"{name} is {value!r}: start several processes by torchrun, which sets it")
        if int(rank := os.environ["RANK"]) >= int(size := os.environ["WORLD_SIZE"]):
            raise UserError(f"RANK is {rank} and WORLD_SIZE {size}; ranks count from 0")
        try:
            socket.getaddrinfo(address := os.environ["MASTER_ADDR"], None)
        except OSError as error:
            raise UserError(f"MASTER_ADDR {address!r} cannot be resolved: {error.strerror}") from None
        if not dist.is_initialized():
            connect(f"{address}:{os.environ['MASTER_PORT']}", size)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main_process(self):
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum(self, tensor):
        """Sum a tensor over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, number):
        """The largest of the processes' whole numbers; every process gets it."""
        if self.world_size == 1:
            return number
        largest = torch.tensor(number)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def barrier(self):
        """Wait until every process has arrived here."""
        if self.world_size > 1:
            dist.barrier()

    def broadcast(self, tensors):
        """Give every process the main process's values, which are the ones that are saved."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def average_gradients(self, model):
        """Average the gradients of a step over all processes.

        They are summed as one vector, so that a resumed run rounds alike: DistributedDataParallel groups them anew
        after its first step, and the sums of three and more processes depend on the groups.
        """
        if self.world_size > 1:
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            vector = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(vector)
            parts = (vector / self.world_size).split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))

    def synchronize(self, model, device):
        """Give every process the main process's model; on GPUs batch statistics are those of the whole batch.

        SyncBatchNorm replaces layers in place and keeps their names. On CPUs, where torch has no such layer, each
        process normalises by its own part of the batch.
        """
        if self.world_size > 1 and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.broadcast(model.state_dict().values())
        return model


SINGLE_PROCESS = Distributed()


def connect(address, size):
    """Wait for the other processes, for MEETING. Raises UserError; SIGINT and SIGTERM end this process."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # The library waits in C++, where Python's own handlers would not be called.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    line = f"waiting for the other processes of {size} at {address}"
    timer = threading.Timer(SECONDS_BEFORE_LINE, print, [line], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=MEETING))
        store.set(f"started/{rank}", "")
        store.wait([f"started/{number}" for number in range(world_size)], MEETING)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=EXCHANGE)
    except (RuntimeError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"the {size} processes do not find each other at {address}: {problem}") from None
    finally:
        timer.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def leave(status):
    """End this process with its exit status, together with the others of its group, but wait for none that has failed.

    Nothing is taken apart first: gloo's threads abort a process now and then where a connection closes while they work
    on the last answer, or where they drop a tensor while Python ends.
    """
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError, ValueError):  # somebody is late; or the group has no gloo
            dist.monitored_barrier(timeout=EXIT_TIMEOUT)
        os._exit(status)
    sys.exit(status)
