"""The device, the precision and the settings that let a machine run at its speed."""

import contextlib
import ctypes
import functools
import importlib.util
import math
import os
import shutil
import sys
import timeit
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from utils.cli import counted
from utils.distributed import SINGLE_PROCESS, Distributed, leave
from utils.errors import UserError
from utils.options import check_limits, option

DEVICES, PRECISIONS = ("auto", "cpu", "cuda", "mps"), ("auto", "fp32", "bf16")
# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


@dataclass(frozen=True)
class MachineConfig:
    title: ClassVar[str] = "machine"
    device: str = option("auto", "device to compute on", choices=DEVICES)
    precision: str = option(
        "auto", "precision of the network; auto: bf16 where the processor is faster in it",
        choices=PRECISIONS,
    )  # fmt: skip
    threads: int = option(0, "CPU threads; 0 means one per core", low=0, high=1024)
    compile: str = option("auto", "torch.compile; auto: on GPUs", choices=("auto", "on", "off"))
    deterministic: bool = option(False, "use deterministic algorithms on GPUs; runs on CPUs are always deterministic")


def choose_device(name):
    """'auto', 'cpu', 'cuda' or 'mps', Apple's GPUs -> torch.device; each process takes a CUDA GPU of its own.

    'auto' leaves Apple's GPUs alone: nobody has run this code on one.

    Raises:
        UserError: a GPU is asked for that is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        raise UserError(f"--device {name}: no such GPU is available here; use --device cpu or auto")
    if name != "cuda":
        return torch.device(name)
    rank, available = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if rank >= available:
        raise UserError(f"process {rank} of this machine has no GPU: there are {available}; start as many processes")
    return torch.device("cuda", rank)


def choose_precision(name, device):
    """'auto', 'fp32' or 'bf16' -> 'fp32' or 'bf16', the faster one where it is 'auto'."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and bf16_is_faster() else "fp32"


def choose_compilation(name, device):
    """'auto', 'on' or 'off' -> bool. Raises UserError where 'on' is impossible."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (7, 0)
    if name == "on" and (old or not compiler):
        raise UserError("--compile on: this needs a C compiler" + (" and a GPU newer than this one" if old else ""))
    possible = compiler and not old and importlib.util.find_spec("triton")  # not there on Windows
    return name == "on" or (name == "auto" and device.type == "cuda" and bool(possible))


@functools.cache
def bf16_is_faster():
    """Whether this CPU multiplies bf16 matrices clearly faster than fp32 ones.

    Measured, in 0.02 s, because processors with the same instructions differ (benchmarks/RESULTS.md: 2.7 times as fast
    on one, 0.6 times on another). The precisions alternate, and the shortest time of each counts: other work on the
    machine does not change it.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return False  # the CPU emulates bf16, and a single product can take minutes
    fp32, bf16 = (torch.ones(384, 384, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    pairs = [
        (timeit.timeit(lambda: fp32 @ fp32, number=1), timeit.timeit(lambda: bf16 @ bf16, number=1)) for _ in range(20)
    ]
    slow, fast = map(min, zip(*pairs, strict=True))
    return slow / fast > 1.3


def cpu_threads():
    """The number of cores of this process, which shares the machine where torchrun started several."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, cores // processes) if processes > 1 else min(cores, torch.get_num_threads())


def one_core_threads(count):
    """A ThreadPoolExecutor whose threads compute on one core each, so that together they use `count` cores.

    Torch then gives one core to threads that start later, too, and changes nothing for those that run.
    """
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))


def memory_bytes():
    """The memory of this machine, or of the container that this process runs in; infinite where neither is known."""
    limits = [math.inf]
    with contextlib.suppress(AttributeError, ValueError):  # another system
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # another system, or no limit
            limits.append(int(Path(path).read_text()))
    return min(limits)


@dataclass(frozen=True)
class Runtime:
    """A device, the precision ('fp32' or 'bf16') of the network there, and the processes that train together."""

    device: torch.device
    precision: str
    compiled: bool = False
    distributed: Distributed = SINGLE_PROCESS

    leave = staticmethod(leave)  # what `setup` joined

    @classmethod
    def setup(cls, device="auto", precision="auto", threads=0, deterministic=False, compilation="off", join=False):
        """Resolve the names of the command line.

        Args:
            device: 'auto', 'cpu', 'cuda' or 'mps'.
            precision: 'auto', 'fp32' or 'bf16'.
            threads: CPU threads; 0 means one per core.
            deterministic: use only algorithms that give the same bits on every run; on a CPU all of them do.
            compilation: 'auto' (on GPUs), 'on' or 'off'.
            join: join the processes that torchrun started.
        """
        check_limits("--device", device, {"choices": DEVICES})
        check_limits("--precision", precision, {"choices": PRECISIONS})
        check_limits("--threads", threads, {"low": 0})
        # More threads than cores wait for each other: with 200 on two cores, thirty times as long.
        torch.set_num_threads(min(threads, os.cpu_count() or 1) or cpu_threads())
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
            torch.use_deterministic_algorithms(True)
        device = choose_device(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.benchmark = not deterministic
        compiled = choose_compilation(compilation, device)
        distributed = Distributed.join() if join else SINGLE_PROCESS
        # All processes use one precision, whatever each of them would choose.
        bf16 = distributed.max(int(choose_precision(precision, device) == "bf16"))
        return cls(device, "bf16" if bf16 else "fp32", compiled, distributed)

    def autocast(self):
        """The context in which the network runs forward."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def prepare(self, model):
        """The network to train with: the model, the same in all processes, and compiled where it pays."""
        network = self.distributed.synchronize(model, self.device)
        return torch.compile(network, dynamic=False) if self.compiled else network

    def place(self, model):
        """The network on the device, in the memory layout in which convolutions are fast there."""
        # On Apple's GPUs they read weights of another layout wrongly: PyTorch's issue 192303.
        layout = torch.contiguous_format if self.device.type == "mps" else torch.channels_last
        return model.to(self.device, memory_format=layout)

    def to_device(self, images):
        """Cached images uint8 (N, 3, S, S): on a CUDA GPU if half of its free memory suffices, otherwise unchanged."""
        if self.device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(self.device)[0] / 2:
            return images
        copy = torch.empty(images.shape, dtype=torch.uint8, device=self.device)
        for start in range(0, len(images), 1024):
            copy[start : start + 1024] = torch.from_numpy(images[start : start + 1024].copy())
        return copy

    def synchronize(self):
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def __str__(self):
        count = self.distributed.world_size
        processes = f", {count} processes" if count > 1 else ""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}{processes}"
        if self.device.type != "cpu":
            return f"{self.device.type}, {self.precision}{processes}"
        return f"CPU, {counted(torch.get_num_threads(), 'thread')}, {self.precision}{processes}"


def keep_large_buffers():
    """Tell glibc to reuse large freed buffers, those of every step's activations, instead of mapping new pages.

    Does nothing on other systems, and where the C library has no mallopt.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 << 20)
