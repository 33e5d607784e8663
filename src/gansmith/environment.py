"""What a result depends on besides its configuration: versions, processor, memory, accelerators.

`gansmith env` prints it for bug reports, a run keeps it as environment.json. Knows nothing of networks.
"""

import os
import platform
import re
import shutil
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "numpy", "pillow", "pydantic", "click", "pyyaml", "safetensors", "tqdm")
VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG", "WORLD_SIZE",
)  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")


def collect(device: "torch.device | None" = None) -> dict[str, Any]:
    """Describes this machine and installation; JSON-able, and without anything that names a person.

    device: what a run trains on; None takes the one it would choose.
    """
    import torch

    import gansmith
    from gansmith import hardware
    from gansmith.data.memory import usable_cpus
    from gansmith.training import precision

    device = device or hardware.choose_device(None)
    chosen = precision.choose("auto", device)
    flags = hardware.cpu_flags()
    return {
        "gansmith": gansmith.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": _extras(),
        "cpu": {
            "model": _cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cpus(),
            "threads": torch.get_num_threads(),
            "flags": [flag for flag in FLAGS if flag in flags],
        },
        "memory_gib": _memory_gib(),
        "shared_memory_gib": _size_gib("/dev/shm"),
        "backends": {"cuda": torch.version.cuda, "hip": torch.version.hip, "xpu": torch.version.xpu},
        "devices": _devices(),
        "device": str(device),
        "precision": chosen.name,
        "precision_reason": chosen.reason,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def as_text(facts: dict[str, Any]) -> str:
    """The same for reading: one line per fact."""
    cpu = facts["cpu"]
    rows = [
        ("gansmith", facts["gansmith"]),
        ("python", f"{facts['python']} on {facts['system']}"),
        (
            "packages",
            ", ".join(f"{name} {version or 'missing'}" for name, version in facts["packages"].items()),
        ),
        *(
            (f"extra {extra}", ", ".join(f"{name} {version or 'missing'}" for name, version in found.items()))
            for extra, found in facts["extras"].items()
        ),
        ("cpu", f"{cpu['model']}, {cpu['usable_cores']} of {cpu['cores']} cores, {cpu['threads']} threads"),
        ("cpu flags", " ".join(cpu["flags"]) or "none that matter"),
        ("memory", _gib(facts["memory_gib"])),
        ("/dev/shm", _gib(facts["shared_memory_gib"])),
        *((name, version) for name, version in facts["backends"].items() if version),
        *((each["name"], f"{each['device']}, {_gib(each['memory_gib'])}") for each in facts["devices"]),
        ("trains on", facts["device"]),
        ("precision", f"auto is {facts['precision']}: {facts['precision_reason']}"),
        *facts["variables"].items(),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, dict[str, str | None]]:
    """Extra → its packages with their versions, None where missing; read from what gansmith declares."""
    extras: dict[str, dict[str, str | None]] = {}
    for requirement in metadata.requires("gansmith") or []:
        extra = re.search(r"""extra == ["']([\w-]+)["']""", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra and name and extra[1] != "dev":
            extras.setdefault(extra[1], {})[name[0]] = _version(name[0])
    return extras


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    """What this process may use: the machine's memory, or the container's limit where that is smaller."""
    if not hasattr(os, "sysconf") or sys.platform == "darwin":
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
    return round(min(limits) / 2**30, 2)


def _size_gib(folder: str) -> float | None:
    try:
        return round(shutil.disk_usage(folder).total / 2**30, 2)
    except OSError:
        return None


def _devices() -> list[dict[str, Any]]:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return []
    backend = torch.get_device_module(accelerator)
    found = []
    for index in range(torch.accelerator.device_count()):
        # Not every backend names its devices or says how large they are.
        properties = (
            backend.get_device_properties(index) if hasattr(backend, "get_device_properties") else None
        )
        memory = getattr(properties, "total_memory", None)
        found.append(
            {
                "device": f"{accelerator.type}:{index}",
                "name": getattr(properties, "name", accelerator.type),
                "memory_gib": round(memory / 2**30, 2) if memory else None,
            }
        )
    return found


def _gib(size: float | None) -> str:
    return "unknown" if size is None else f"{size:g} GiB"
