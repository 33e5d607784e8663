"""The reference: which real images a target is scored against, opened at the target's own size.

Must not know features or scores.
"""

import os
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from gansmith.data import open_dataset
from gansmith.data.shards import Dataset, is_prepared, open_prepared
from gansmith.errors import UserError
from gansmith.evaluation.targets import NetworkTarget, Target


def open_reference(data: str | None, target: Target, *, aloud: bool = True) -> Dataset:
    """The data set at `data`, or for None the one that the target's network was trained on.

    Whatever is not prepared is prepared once, at the target's size. aloud: say so on stdout. Raises UserError
    where images of another size would have to be resized a second time.
    """
    config = target.sampler.info.get("config") or {} if isinstance(target, NetworkTarget) else {}
    options = _as_trained(config) if data is None else {}
    data = data or (config.get("data") or {}).get("path")
    if data is None:
        raise UserError(
            f"--data is missing: {target.path} does not say what it was made from; give the real images."
        )
    channels, height, width = target.shape
    if "://" in data or is_prepared(data):
        dataset = open_prepared(data)
        _check_shape(dataset, target)
        return dataset
    if height != width:
        raise UserError(
            f"{target.path} holds images of {width}×{height} px; --data {data} is prepared as squares only: "
            "give a prepared set of that size."
        )
    with open(os.devnull, "w") as nowhere, ExitStack() as stack:
        if not aloud:
            stack.enter_context(redirect_stdout(nowhere))
        return open_dataset(data, resolution=height, channels=channels, **options)


def _as_trained(config: dict[str, Any]) -> dict[str, Any]:
    """How the run itself had its images prepared."""
    data, model = config.get("data") or {}, config.get("model") or {}
    options = {name: data[name] for name in ("crop", "resize") if name in data}
    if not model.get("conditional", True) or data.get("labels", "dataset") != "dataset":
        options["unconditional"] = True
    return options


def _check_shape(dataset: Dataset, target: Target) -> None:
    channels, height, width = target.shape
    found = (dataset.channels, *dataset.resolution)
    if found != target.shape:
        raise UserError(
            f"--data {dataset.path} is prepared at {found[2]}×{found[1]} px with {found[0]} channels, "
            f"{target.path} has images of {width}×{height} px with {channels}; prepare the reals at that "
            f"size: gansmith data prepare SRC {_beside(dataset.path, height)} --resolution {height}"
        )


def _beside(path: str, side: int) -> str:
    return f"{Path(path).name}-{side}px"
