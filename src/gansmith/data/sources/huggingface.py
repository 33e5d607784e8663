"""Hugging Face datasets: a parquet or arrow folder, a `save_to_disk` folder, or a set of the hub.

Hub ids are written `user/name` or `hf:name`, with an optional configuration and split:
`hf:user/name:config@split`.
"""

import glob
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from gansmith.data.images import Rejected
from gansmith.data.sources.base import Source, fingerprint_of_files, numbered_classes
from gansmith.errors import UserError

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls")
_HUB_ID = re.compile(r"(?:hf:)?((?:[\w.-]+/)?[\w.-]+)(?::([\w.-]+))?(?:@([\w.\[\]:%+-]+))?")


class HuggingFaceSource(Source):
    """The image and label columns of a `datasets.Dataset`; images stay encoded until read."""

    kind = "Hugging Face dataset"

    def __init__(self, path: str, table: Any, notes: list[str], *, unconditional: bool) -> None:
        image = _image_column(path, table)
        self._table = table.select_columns([image]).cast_column(image, _datasets().Image(decode=False))
        self._image = image
        column = None if unconditional else _label_column(path, table)
        if column is None:
            classes, labels, numbered = ["all"], np.zeros(len(table), np.int64), False
        else:
            classes, labels, numbered = _labels(path, table, column)
            notes = [*notes, f"labels from the column {column}"] if column != "label" else notes
        super().__init__(path, classes, labels, numbered=numbered, notes=notes)

    def key(self, index: int) -> str:
        return f"row {index}"

    def read(self, index: int) -> bytes:
        found = self._table[index][self._image]
        if found is None:
            raise Rejected("no image in this row")
        if found.get("bytes") is not None:
            return found["bytes"]
        try:
            return Path(found["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise Rejected(f"cannot be read: {error}") from None

    def fingerprint(self) -> str:
        if os.path.exists(self.path):
            return fingerprint_of_files([Path(self.path)])
        return str(self._table._fingerprint)


def is_hub_id(path: str) -> bool:
    """Whether the path can only be a set of the hub: `hf:…`, or `user/name` where no such path exists."""
    if path.startswith("hf:"):
        return True
    # data/typo, where data/ exists, is a mistake and no reason to ask the network
    return bool(_HUB_ID.fullmatch(path)) and path.count("/") == 1 and not os.path.exists(path.split("/")[0])


def looks_like_huggingface(path: str) -> bool:
    """Whether the folder is a `save_to_disk` folder or holds parquet or arrow files."""
    if not os.path.isdir(path):
        return path.endswith((".parquet", ".arrow"))
    names = os.listdir(path)
    return bool(
        {"dataset_info.json", "dataset_dict.json", "state.json"} & set(names) or _data_files(path, ".parquet")
    ) or bool(_data_files(path, ".arrow"))


def open_huggingface(path: str, *, unconditional: bool = False) -> HuggingFaceSource:
    """Opens a local folder or a hub id; of several splits, train."""
    if os.path.exists(path):
        table, notes = _local(path)
    else:
        table, notes = _hub(path)
    return HuggingFaceSource(path, table, notes, unconditional=unconditional)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("Hugging Face datasets need an extra; type: pip install 'gansmith[hub]'") from None
    datasets.disable_progress_bars()
    return datasets


def _data_files(path: str, extension: str) -> list[str]:
    inside = glob.escape(path)
    return sorted(glob.glob(f"{inside}/*{extension}") or glob.glob(f"{inside}/data/*{extension}"))


def _local(path: str) -> tuple[Any, list[str]]:
    datasets = _datasets()
    try:
        if os.path.isfile(os.path.join(path, "dataset_dict.json")) or os.path.isfile(
            os.path.join(path, "state.json")
        ):
            return _train_split(datasets.load_from_disk(path), path)
        for extension, reader in ((".parquet", "parquet"), (".arrow", "arrow")):
            files = [path] if path.endswith(extension) else _data_files(path, extension)
            if files:
                training = [f for f in files if "train" in os.path.basename(f)]
                others = sorted(set(files) - set(training))
                notes = (
                    [f"files named train taken; {', '.join(map(os.path.basename, others[:3]))} left aside"]
                    if training and others
                    else []
                )
                # datasets keeps an Arrow copy of parquet in its own cache, from which rows are read in any
                # order.
                return datasets.load_dataset(reader, data_files=training or files, split="train"), notes
    except (OSError, ValueError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{path} cannot be opened as a Hugging Face dataset: {error}") from None
    raise UserError(f"{path} holds no Hugging Face dataset (parquet, arrow or save_to_disk).")


def _hub(path: str) -> tuple[Any, list[str]]:
    match = _HUB_ID.fullmatch(path)
    if not match:
        raise UserError(f"{path} is no hub id; write hf:user/name, hf:user/name:config or hf:user/name@split")
    name, config, split = match.groups()
    datasets = _datasets()
    try:
        return _train_split(datasets.load_dataset(name, config, split=split), path)
    except UserError:
        raise
    except Exception as error:  # network, hub and dataset scripts have dozens of their own
        text = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path} cannot be opened, neither as a path (there is none) nor from the Hugging Face hub: "
            f"{text}"
        ) from None


def _train_split(found: Any, path: str) -> tuple[Any, list[str]]:
    if not isinstance(found, dict):
        return found, []
    if len(found) == 1:
        return next(iter(found.values())), []
    if "train" not in found:
        raise UserError(
            f"{path} has the splits {', '.join(found)} but no train; give one, as hf:user/name@SPLIT"
        )
    others = ", ".join(name for name in found if name != "train")
    return found["train"], [f"split train taken ({len(found['train']):,} images); {others} left aside"]


def _image_column(path: str, table: Any) -> str:
    datasets = _datasets()
    columns = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if not columns:  # parquet written without the features: {"bytes", "path"} or plain bytes
        columns = [n for n, kind in table.features.items() if isinstance(kind, dict) and "bytes" in kind]
        columns += [
            n for n, k in table.features.items() if getattr(k, "dtype", "") in ("binary", "large_binary")
        ]
    if len(columns) != 1:
        found = f"{len(columns)} image columns ({', '.join(columns)})" if columns else "no image column"
        raise UserError(f"{path} has {found}; its columns are {', '.join(table.features)}. One is needed.")
    return columns[0]


def _label_column(path: str, table: Any) -> str:
    datasets = _datasets()
    named = [name for name in LABEL_COLUMNS if name in table.features]
    typed = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    if not named and len(typed) != 1:
        raise UserError(
            f"{path} has no label column; its columns are {', '.join(table.features)}, known names are "
            f"{', '.join(LABEL_COLUMNS)}. To train without classes add --unconditional."
        )
    return named[0] if named else typed[0]


def _labels(path: str, table: Any, column: str) -> tuple[list[str], np.ndarray, bool]:
    values = table.data.column(column).to_pylist() if table._indices is None else table[column][:]
    kind = table.features[column]
    if any(value is None for value in values):
        raise UserError(f"{path}: {values.count(None)} rows have no {column}.")
    if all(isinstance(value, str) for value in values):
        classes = sorted(set(values))
        position = {name: i for i, name in enumerate(classes)}
        return classes, np.array([position[value] for value in values]), False
    if not all(isinstance(value, int) for value in values):
        raise UserError(f"{path}: the column {column} holds neither numbers nor names.")
    labels = np.array(values, np.int64)
    return numbered_classes(labels, path, getattr(kind, "names", None) or ()), labels, True
