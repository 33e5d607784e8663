"""The hinge objective, which also writes down what it was shown: one line per image with phase and hashes."""

import hashlib
import os

import torch

from gansmith.training import objectives


def _names(*tensors: torch.Tensor) -> list[str]:
    rows = zip(*[tensor.detach().cpu().numpy() for tensor in tensors])
    return [hashlib.sha256(b"".join(part.tobytes() for part in row)).hexdigest()[:12] for row in rows]


def hinge(phase, G, D, micro):
    """Appends to the file named by $RECORD, one file per rank."""
    lines = [f"{phase} noise {name}" for name in _names(micro.z, micro.y)]
    if phase == "d":
        lines += [f"d real {name}" for name in _names(micro.real, micro.real_y)]
    with open(f"{os.environ['RECORD']}.{os.environ.get('RANK', '0')}", "a") as file:
        file.write("\n".join(lines) + "\n")
    return objectives.hinge(phase, G, D, micro)


def tight(phase, G, D, micro):
    """hinge, where process 1 has no room for more latents at once than $ROOM in phases named in $PHASES."""
    room = int(os.environ["ROOM"])
    result = hinge(phase, G, D, micro)
    if os.environ["RANK"] == "1" and phase in os.environ["PHASES"] and len(micro.z) > room:
        result[0].backward()  # in the middle, with much of the work done
        raise torch.OutOfMemoryError("out of memory (injected)")
    return result
