"""The reference: which real images a target is scored against, opened at the target's own size.

Must not know features or scores.
"""

import os
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from gansmith.data import holding, open_dataset
from gansmith.data.ensure import expect_dataset
from gansmith.data.shards import Dataset, is_prepared, open_prepared
from gansmith.errors import TooFewClasses, UserError
from gansmith.evaluation.targets import NetworkTarget, Target


def open_reference(data: str | Dataset | None, target: Target, *, aloud: bool = True) -> Dataset:
    """The data set given, or at `data`, or for None the one that the target's network was trained on.

    aloud: preparing says so on stdout. Raises UserError as `open_at` does, and where nothing is known.
    """
    if isinstance(data, Dataset):
        _check_shape(data, target.shape, str(target.path))
        return data
    config = target.sampler.info.get("config") or {} if isinstance(target, NetworkTarget) else {}
    trained = (config.get("data") or {}) if data is None else {}
    options = _as_trained(config) if data is None else {}
    data = data or trained.get("path")
    if data is None:
        raise UserError(
            f"--data is missing: {target.path} does not say what it was made from; give the real images."
        )
    opened = open_at(data, target.shape, str(target.path), options, aloud=aloud)
    return holding.split(opened, trained.get("hold_out", 0))[0]


def open_at(
    data: str, shape: tuple[int, int, int], whose: str, options: dict[str, Any], *, aloud: bool = True
) -> Dataset:
    """The data set at `data` in this shape (C, H, W). What is not prepared is prepared once, with `options`.

    whose: who has that shape, for messages. Raises UserError where prepared images would have to be resized
    a second time.
    """
    channels, height, width = shape
    if "://" in data or is_prepared(data):
        dataset = open_prepared(data)
        _check_shape(dataset, shape, whose)
        return dataset
    if height != width:
        raise UserError(
            f"{whose} has images of {width}×{height} px, and --data {data} would be prepared as squares: "
            "give a prepared set of that size."
        )
    with open(os.devnull, "w") as nowhere, ExitStack() as stack:
        if not aloud:
            stack.enter_context(redirect_stdout(nowhere))
        try:
            return open_dataset(data, resolution=height, channels=channels, **options)
        except TooFewClasses:
            # Too little for a class-conditional network, but images can be held against images.
            print(f"data: {data} has no two classes; its images are taken without labels", flush=True)
            return open_dataset(
                data, resolution=height, channels=channels, **options | {"unconditional": True}
            )


def expect_at(data: str, shape: tuple[int, int, int], whose: str, options: dict[str, Any]) -> None:
    """Raises UserError where `open_at` would, up to decoding an image; writes nothing. For squares."""
    channels, height, _ = shape
    if "://" in data or is_prepared(data):
        _check_shape(open_prepared(data, in_memory=False), shape, whose)
        return
    with suppress(TooFewClasses):  # which `open_at` takes without labels
        expect_dataset(data, resolution=height, channels=channels, **options)


def _as_trained(config: dict[str, Any]) -> dict[str, Any]:
    """How the run itself had its images prepared."""
    data, model = config.get("data") or {}, config.get("model") or {}
    options = {name: data[name] for name in ("crop", "resize") if name in data}
    if not model.get("conditional", True) or data.get("labels", "dataset") != "dataset":
        options["unconditional"] = True
    return options


def _check_shape(dataset: Dataset, shape: tuple[int, int, int], whose: str) -> None:
    channels, height, width = shape
    found = (dataset.channels, *dataset.resolution)
    if found != shape:
        raise UserError(
            f"--data {dataset.path} is prepared at {found[2]}×{found[1]} px with {found[0]} channels, "
            f"{whose} has images of {width}×{height} px with {channels}; prepare the reals at that size: "
            f"gansmith data prepare SRC {Path(dataset.path).name}-{height}px --resolution {height} "
            f"--channels {channels}"
        )
