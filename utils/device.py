"""Where and how precisely to compute, and the settings that let the machine run at its speed."""

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import timeit
from dataclasses import dataclass

import torch

from data.loader import each_tensor, prepared_ahead
from utils import UserError
from utils.world import ALONE, World, distribute

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def choose_device(name):
    """'auto', 'cpu' or 'cuda' -> torch.device. Raises UserError for a GPU that is not there.

    Each process of a machine takes a GPU of its own.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA GPU is available here; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    own, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if own >= there:
        raise UserError(f"process {own} of this machine has no GPU: there are {there}; start as many processes")
    return torch.device("cuda", own)


def choose_precision(name, device):
    """'auto', 'fp32' or 'bf16' -> 'fp32' or 'bf16', the faster one where it is 'auto'."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if bf16_pays() else "fp32"


def choose_compiling(name, device):
    """'auto', 'on' or 'off' -> bool. Raises UserError where 'on' cannot be."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (7, 0)
    if name == "on" and (old or not compiler):
        raise UserError("--compile on: this needs a C compiler" + (" and a GPU newer than this one" if old else ""))
    return name == "on" or (name == "auto" and device.type == "cuda" and bool(compiler) and not old)


@functools.cache
def bf16_pays(size=1024, repeats=5):
    """Whether this CPU multiplies bf16 matrices clearly faster than fp32 ones.

    It is tried, for 0.1 s: processors with the same AVX512-bf16 instructions differ
    (benchmarks/RESULTS.md: 2.7 times as fast on one, 0.6 times on another). Without them or AMX, no.
    """
    if not {"avx512_bf16", "amx_bf16"} & {name for name, there in cpu_capabilities().items() if there}:
        return False
    best = {}
    for kind in (torch.float32, torch.bfloat16):
        left, right = (torch.ones(size, size, dtype=kind) for _ in range(2))
        best[kind] = min(timeit.repeat(lambda left=left, right=right: left @ right, number=1, repeat=repeats))
    return best[torch.float32] > 1.3 * best[torch.bfloat16]


def cpu_capabilities():
    """{name: whether the processor has it}; empty where torch cannot tell yet."""
    return getattr(torch.cpu, "get_capabilities", dict)()


def cpu_threads():
    """As many as this process has cores: of its share of the machine, where several work there."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, cores // processes) if processes > 1 else min(cores, torch.get_num_threads())


@dataclass(frozen=True)
class Compute:
    """A device, the precision ('fp32' or 'bf16') in which the network runs there, and the processes that share it."""

    device: torch.device
    precision: str
    compiles: bool = False
    world: World = ALONE

    @classmethod
    def choose(cls, device, precision, threads=0, deterministic=False, compiles="auto"):
        """From the names of the command line.

        threads: of the CPU; 0 takes what the cores bear. deterministic: only algorithms that give the
        same bits on every run; on a CPU all that this code uses do. compiles: 'on', 'off' or 'auto',
        on GPUs.
        """
        torch.set_num_threads(threads or cpu_threads())
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
            torch.use_deterministic_algorithms(True)
        device = choose_device(device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.benchmark = not deterministic
        compiles, world = choose_compiling(compiles, device), World.join()
        # All processes compute alike, whatever each of them would choose.
        bf16 = world.largest(int(choose_precision(precision, device) == "bf16"))
        return cls(device, "bf16" if bf16 else "fp32", compiles, world)

    def autocast(self):
        """The context in which the network runs forward."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def network(self, model):
        """What trains the model here: itself, or shared among processes, compiled or both."""
        network = distribute(model, self.device, self.world)
        return torch.compile(network, dynamic=False) if self.compiles else network

    def hold(self, images):
        """The cached images, uint8 (N, 3, S, S): in the GPU's memory if half of it stays free, else as they are."""
        if self.device.type == "cpu" or images.nbytes > torch.cuda.mem_get_info(self.device)[0] / 2:
            return images
        held = torch.empty(images.shape, dtype=torch.uint8, device=self.device)
        for start in range(0, len(images), 1024):
            held[start : start + 1024] = torch.from_numpy(images[start : start + 1024].copy())
        return held

    def bring(self, batches):
        """The batches on this device, read ahead where the device computes on its own."""
        if self.device.type == "cpu":
            return batches
        return bring_to_gpu(batches, self.device)

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __str__(self):
        processes = f", {self.world.size} processes" if self.world.size > 1 else ""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}{processes}"
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}, {self.precision}{processes}"


def bring_to_gpu(batches, device):
    """Batches that are there already pass through; others are read ahead and copied while the GPU works."""
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return
    remaining = itertools.chain([first], batches)
    if first[0].device.type == "cpu":
        remaining = prepared_ahead(remaining)
    for batch in remaining:
        yield each_tensor(lambda part: part.to(device, non_blocking=True), batch)


def keep_large_buffers():
    """Tell glibc to reuse large freed buffers instead of returning them to the system.

    Each training step allocates the same large activations; returned and mapped again, every
    page of them faults anew. Does nothing where the C library has no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 << 20)
