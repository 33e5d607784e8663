"""GPUs that can be planned for: peak rates, memory and links as their makers state them; and how much of a
peak this training reaches, with the source.

Rates are dense, without sparsity. Knows nothing of networks.
"""

import difflib
import re
from dataclasses import dataclass

from gansmith.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """fp32, half: peak TFLOP/s outside tensor cores, and of bf16 on them (fp16 where there is no bf16).
    memory_gib: what a process finds free, about. link: GB/s to its neighbours in a node, one way.
    """

    name: str
    fp32: float
    half: float
    memory_gib: float
    link: float
    has_bf16: bool = True


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", 8.1, 65, 14.5, 12, has_bf16=False),
        Gpu("V100", 15.7, 125, 15.7, 150, has_bf16=False),
        Gpu("V100-32GB", 15.7, 125, 31.7, 150, has_bf16=False),
        Gpu("RTX3090", 35.6, 71, 23.5, 12),
        Gpu("RTX4090", 82.6, 165, 23.5, 25),
        Gpu("A10G", 31.2, 70, 22, 25),
        Gpu("L4", 30.3, 121, 22, 25),
        Gpu("L40S", 91.6, 362, 44.5, 25),
        Gpu("A100-40GB", 19.5, 312, 39.4, 300),
        Gpu("A100", 19.5, 312, 79, 300),
        Gpu("H100-PCIe", 51, 756, 79, 25),
        Gpu("H100", 67, 989, 79, 450),
        Gpu("H200", 67, 989, 139, 450),
        Gpu("B200", 75, 2250, 178, 900),
        Gpu("MI300X", 163, 1307, 191, 448),
    )
}
OTHER_NAMES = {
    "a100-80gb": "A100",
    "v100-16gb": "V100",
    "h100-sxm": "H100",
    "h100-80gb": "H100",
    "3090": "RTX3090",
    "4090": "RTX4090",
    "a10": "A10G",
}


@dataclass(frozen=True)
class Utilisation:
    """Share of the peak: low, likely, high; where it comes from; whether somebody measured it."""

    low: float
    likely: float
    high: float
    source: str
    published: bool


# 8 × V100, fp32, 128 px, ch96: 225 to 241 images/s. Nothing is published for tensor cores: from as slow as
# those V100, counted against their tensor peak, to a third of it, where well-tuned convolutions end.
PUBLISHED = Utilisation(0.61, 0.635, 0.66, "BigGAN-PyTorch's log, 8 × V100 fp32, 128 px ch96", True)
FP32 = Utilisation(0.4, 0.55, 0.66, "estimate from BigGAN-PyTorch on V100 in fp32 (61 to 66 %)", False)
HALF = Utilisation(
    0.08, 0.2, 0.35, "estimate: nothing is published; 8 % is BigGAN-PyTorch on V100 in fp32", False
)


def parse(text: str) -> tuple[int, Gpu]:
    """`8xH100` → (8, H100); `H100` is one. Raises UserError naming the known ones."""
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(\S+)\s*", text)
    if not match or (match[1] and int(match[1]) < 1):
        raise UserError(
            f"--gpus {text!r} is no number and kind of GPU; write --gpus 8xH100. Known: {_known()}"
        )
    count, wanted = int(match[1] or 1), match[2]
    names = {name.lower(): name for name in GPUS} | OTHER_NAMES
    name = names.get(wanted.lower())
    if name is None:
        near = difflib.get_close_matches(wanted.lower(), names, n=1, cutoff=0.5)
        hint = f"did you mean {names[near[0]]}? Known" if near else "known"
        raise UserError(f"--gpus {text}: no GPU {wanted!r} is known; {hint}: {_known()}")
    return count, GPUS[name]


def precision(gpu: Gpu, asked: str) -> str:
    """What `train.precision` becomes on a GPU: bf16, fp16 or fp32."""
    if asked == "auto":
        return "bf16" if gpu.has_bf16 else "fp16"
    return asked


def peak(gpu: Gpu, arithmetic: str) -> float:
    """FLOP/s of the arithmetic."""
    return (gpu.fp32 if arithmetic == "fp32" else gpu.half) * 1e12


def utilisation(gpu: Gpu, arithmetic: str) -> Utilisation:
    """What share of `peak` is to be expected."""
    if arithmetic != "fp32":
        return HALF
    return PUBLISHED if gpu.name.startswith("V100") else FP32


def _known() -> str:
    return f"{', '.join(GPUS)}."
