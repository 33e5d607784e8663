"""What the hardware is and can do, one question or switch per function: devices, bf16, TF32, memory.

The only file that may name what only CUDA has. Knows nothing of networks, runs or files.
"""

import contextlib
import os
import platform
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from gansmith.errors import UserError


def choose_device(name: str | torch.device | None, local_rank: int = 0) -> torch.device:
    """The device asked for, else this process's accelerator, else the CPU; an accelerator has an index.

    Raises UserError for a device that is unknown or not in this machine.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        device = accelerator or torch.device("cpu")
    else:
        try:
            device = torch.device(name)
        except RuntimeError:
            raise UserError(f"--device {name} is unknown; write cpu, cuda, cuda:1, mps, xpu, …") from None
    if device.type == "cpu":
        return device
    if accelerator is None or accelerator.type != device.type:
        found = f"only {accelerator.type} and cpu" if accelerator else "only cpu"
        raise UserError(f"--device {name} is not here: this machine has {found}.")
    index = local_rank if name is None or device.index is None else device.index
    if index >= (count := torch.accelerator.device_count()):
        raise UserError(
            f"--device {device.type}:{index} is not here: this machine has {count} of them (0 … {count - 1})."
        )
    return torch.device(device.type, index)


def native_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether the device computes in bf16 natively, and why we think so."""
    if device.type == "cuda":
        if torch.version.hip:
            return True, "ROCm has bf16"
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"CUDA capability {major}.{minor} {'has' if major >= 8 else 'lacks'} bf16"
    if device.type == "cpu":
        flags = cpu_flags()
        if "amx_bf16" in flags:
            return True, "the CPU has AMX"
        if "avx512_bf16" in flags:
            return True, "the CPU has AVX512-bf16"
        return False, "the CPU has no native bf16"
    return True, f"{device.type} is taken to have bf16"


def cpu_flags() -> set[str]:
    """The processor's instruction-set flags, empty where the system does not say."""
    try:
        with open("/proc/cpuinfo") as file:
            return next((set(line.split()) for line in file if line.startswith("flags")), set())
    except OSError:
        return set()


def autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """A fresh context for one forward: autocast to `dtype`; nothing changes for float32 and None."""
    return torch.autocast(device_type, dtype=dtype, enabled=dtype not in (None, torch.float32))


def set_tf32(allowed: bool) -> None:
    """Whether fp32 products may be TF32 in this process; torch itself allows it in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextlib.contextmanager
def full_fp32() -> Iterator[None]:
    """Inside, fp32 products are fp32 and kernels repeat, whatever is switched on; outside nothing changes."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    flags = ("allow_tf32", "benchmark", "deterministic")
    before = {flag: getattr(cudnn, flag) for flag in flags}
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, True
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for flag, value in before.items():
            setattr(cudnn, flag, value)


def set_deterministic(deterministic: bool) -> None:
    """Whether equal input gives equal bits in this process, or the fastest kernels are searched."""
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # What is allocated here is always filled; filling it twice would cost a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of this process's memory on its device, without waiting for what the device still has to do.

    Only pages that are pinned can be copied behind the program's back.
    """
    return (tensor.pin_memory() if can_pin(device) else tensor).to(device, non_blocking=True)


def can_pin(device: torch.device) -> bool:
    """Whether copies to the device from pinned memory run by themselves."""
    return device.type in ("cuda", "xpu")


def peak_memory_gib(device: torch.device) -> float:
    """Most memory used so far: the allocator's on an accelerator, the process's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if platform.system() == "Darwin" else 2**20)


def memory_bytes(device: torch.device) -> int:
    """All memory of an accelerator that allows to ask, else 0."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return 0


def reserved_peak(device: torch.device, reset: bool = False) -> int:
    """Most bytes that the accelerator's allocator held, since the last reset; 0 where nobody counts."""
    if device.type != "cuda":
        return 0
    if reset:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.max_memory_reserved(device)


def release_memory(device: torch.device) -> None:
    """Gives unused memory of the allocator back to the device."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
