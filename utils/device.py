"""Where and how precisely to compute, and the settings that let the machine run at its speed."""

import contextlib
import ctypes
import os
from dataclasses import dataclass

import torch

from utils import UserError

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def choose_device(name):
    """'auto', 'cpu' or 'cuda' -> torch.device. Raises UserError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA GPU is available here; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_precision(name, device):
    """'auto', 'fp32' or 'bf16' -> 'fp32' or 'bf16', the faster one where it is 'auto'.

    On a CPU only AMX multiplies bf16 matrices faster than fp32 ones. AVX512-bf16 alone does
    not: benchmarks/RESULTS.md has it slower than fp32.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_capabilities().get("amx_bf16") else "fp32"


def cpu_capabilities():
    """{name: whether the processor has it}; empty where torch cannot tell yet."""
    return getattr(torch.cpu, "get_capabilities", dict)()


@dataclass(frozen=True)
class Compute:
    """A device and the precision, 'fp32' or 'bf16', in which the network runs there."""

    device: torch.device
    precision: str

    @classmethod
    def choose(cls, device, precision, threads=0, deterministic=False):
        """From the names of the command line.

        threads: of the CPU; 0 leaves torch's choice. deterministic: only algorithms that give the
        same bits on every run; on a CPU all that this code uses do.
        """
        if threads:
            torch.set_num_threads(threads)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
            torch.use_deterministic_algorithms(True)
        device = choose_device(device)
        return cls(device, choose_precision(precision, device))

    def autocast(self):
        """The context in which the network runs forward."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def synchronize(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __str__(self):
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        threads = torch.get_num_threads()
        return f"CPU, {threads} thread{'s' if threads > 1 else ''}, {self.precision}"


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
