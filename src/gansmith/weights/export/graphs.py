"""G as a graph without Python: ONNX, and torch.export's .pt2. The batch is free.

A graph is run against the network before it is given its name; one that draws other images is not kept.
"""

import json
import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gansmith import files
from gansmith.errors import UserError
from gansmith.models.biggan import Generator
from gansmith.weights.export.plain import Drawing, description

TOLERANCE = 1e-4  # of images in [-1, 1]; another program adds up in another order
CHECKED_BATCHES = (1, 2, 5)

Draw = Callable[[dict[str, Tensor]], Tensor]


def to_onnx(path: Path, G: Generator, info: dict[str, Any], *, conditioning: str = "ids") -> float:
    """Writes G as ONNX: inputs `z` float32 (batch, dim_z) and `y` (see `Drawing`), output `images` float32
    (batch, C, R, R) in [-1, 1]. Returns the largest difference from G's images in onnxruntime.

    z comes truncated already; G's standing statistics are those of its truncation. Raises UserError where the
    extra is missing or the graph draws something else.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise UserError(
            f"--format onnx needs the package {error.name}: pip install 'gansmith[onnx]'."
        ) from None
    drawing = Drawing(G, conditioning).eval()
    inputs = drawing.example(3)
    with quiet():
        program = torch.onnx.export(
            drawing,
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=_free_batch(inputs),
            input_names=list(inputs),
            output_names=["images"],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["gansmith"] = json.dumps(description(G, info, conditioning))
    with files.replacing(path) as temporary:
        with quiet():
            program.save(temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])

        def draw(given: dict[str, Tensor]) -> Tensor:
            return torch.from_numpy(session.run(None, {k: v.numpy() for k, v in given.items()})[0])

        return _compare(path, drawing, draw)


def to_torch(path: Path, G: Generator, info: dict[str, Any], *, conditioning: str = "ids") -> float:
    """Writes G with torch.export: `torch.export.load(path).module()(z=z, y=y)`. Otherwise as `to_onnx`."""
    drawing = Drawing(G, conditioning).eval()
    inputs = drawing.example(3)
    with quiet():
        program = torch.export.export(drawing, (), kwargs=inputs, dynamic_shapes=_free_batch(inputs))
        with files.replacing(path) as temporary:
            # torch.export wants the suffix.
            named = temporary.with_name(f"{temporary.name}.pt2")
            try:
                text = json.dumps(description(G, info, conditioning))
                torch.export.save(program, named, extra_files={"gansmith.json": text})
                loaded = torch.export.load(named).module()
                error = _compare(path, drawing, lambda given: loaded(**given))
                named.rename(temporary)
            finally:
                named.unlink(missing_ok=True)
    return error


def _free_batch(inputs: dict[str, Tensor]) -> dict[str, Any]:
    batch = torch.export.Dim("batch")
    return {name: {0: batch} for name in inputs}


@torch.no_grad()
def _compare(path: Path, drawing: Drawing, draw: Draw) -> float:
    gaps = []
    for n in CHECKED_BATCHES:
        inputs = drawing.example(n, seed=n)
        gaps.append((draw(inputs) - drawing(**inputs)).abs().max())
    worst = float(torch.stack(gaps).max())  # NaN if one of them is
    if not worst <= TOLERANCE:
        raise UserError(
            f"{path}: the exported graph draws other images (difference {worst:.2g}, at most {TOLERANCE:g} "
            "is rounding); nothing was written. Please report it with `gansmith env`."
        )
    return worst


@contextmanager
def quiet():
    """torch's exporters speak of what is not installed and of their own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
