"""From a list of file names to classes: sub-folders, train/ beside test/, labels.csv, dataset.json.

Pure: works on names, for a folder, a zip and a tar alike.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from gansmith.data.sources.base import numbered_classes
from gansmith.errors import TooFewClasses, UserError

IMAGE_EXTENSIONS = frozenset(
    (
        *(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".png",
            ".webp",
            ".avif",
            ".jp2",
            ".gif",
            ".bmp",
            ".tif",
            ".tiff",
        ),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
CONTAINERS = (".zip", ".tar", ".h5", ".hdf5", ".tar.gz", ".tgz")
TRAIN = ("train", "training")
SPLITS = frozenset((*TRAIN, "val", "valid", "validation", "test", "testing", "eval", "dev"))
HINT = "one sub-folder of images per class, or a labels.csv with the columns filename,label"


@dataclass
class Tree:
    """Images found under a root: paths (sorted within a class), labels (their class ids), class names."""

    paths: list[str]
    labels: np.ndarray
    classes: list[str]
    numbered: bool = False
    notes: list[str] = field(default_factory=list)


def is_image(path: str) -> bool:
    """Whether the name is that of a picture."""
    dot = path.rfind(".")
    return dot > path.rfind("/") and path[dot:].lower() in IMAGE_EXTENSIONS


def grow(
    paths: Iterable[str], where: str, read: Callable[[str], bytes], *, unconditional: bool = False
) -> Tree:
    """Finds the classes.

    paths: all files, relative, with forward slashes. where: the root as the user would type it. read: the
    bytes of one of the files. Raises UserError where the layout says nothing, naming the path to give
    instead.
    """
    files = sorted(p for p in paths if not _hidden(p))
    root, notes = "", []
    if not _label_file(files, root):
        root, note = _train_folder(files, where)
        notes += note
    here = f"{where}/{root}".rstrip("/")
    inside = [p for p in files if p.startswith(root)]
    label_file = _label_file(inside, root)
    images = [p for p in inside if is_image(p)]
    if not images:
        raise UserError(_nothing_found(inside, here))
    others = len(inside) - len(images) - bool(label_file)
    if others:
        kinds = ", ".join(sorted({_extension(p) for p in inside if not is_image(p) and p != label_file})[:5])
        notes.append(f"{others:,} other {_files(others)} left aside ({kinds})")
    if unconditional:
        return Tree(images, np.zeros(len(images), np.int64), ["all"], notes=notes)
    if label_file:
        tree = _by_label_file(images, root, here, label_file, read(label_file))
    else:
        tree = _by_folder(images, root, here)
    tree.notes = notes + tree.notes
    return tree


def _hidden(path: str) -> bool:
    return path.endswith("/") or any(
        part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini") for part in path.split("/")
    )


def _extension(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return f".{name.rsplit('.', 1)[1]}" if "." in name else name


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def _label_file(files: list[str], root: str) -> str | None:
    names = set(files)
    return next((root + name for name in ("labels.csv", "dataset.json") if root + name in names), None)


def _train_folder(files: list[str], where: str) -> tuple[str, list[str]]:
    """The training split as "train/" where the first level is made of splits, else ""."""
    counts = Counter(p.split("/", 1)[0] for p in files if is_image(p) and "/" in p)
    splits = {name for name in counts if name.lower() in SPLITS}
    if not splits or splits != set(counts):
        return "", []
    training = [name for name in counts if name.lower() in TRAIN]
    if len(training) != 1:
        listed = " or ".join(f"{where}/{name}" for name in sorted(splits))
        raise UserError(
            f"{where} holds {', '.join(sorted(splits))} but no single train folder; give the one to use: "
            f"{listed}"
        )
    note = f"{training[0]}/ taken ({counts[training[0]]:,} images)"
    beside = sorted(splits - set(training))
    if beside:
        note += f"; for another split give its path, as {where}/{beside[0]}"
    return f"{training[0]}/", [note]


def _nothing_found(files: list[str], here: str) -> str:
    if not files:
        return f"{here} is empty; expected are {HINT}."
    containers = [p for p in files if p.lower().endswith(CONTAINERS)]
    if containers:
        return f"{here} holds no images; to read the archive in it, give {here}/{containers[0]}"
    kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(map(_extension, files)).most_common(4))
    return f"{here} holds {len(files)} {_files(len(files))} ({kinds}) but no images; expected are {HINT}."


def _by_folder(images: list[str], root: str, here: str) -> Tree:
    """Class = first folder below the root; plain sorted names give the ids, as everywhere else."""
    inner = [p[len(root) :].split("/") for p in images]
    loose = sum(len(parts) == 1 for parts in inner)
    folders = sorted({parts[0] for parts in inner if len(parts) > 1})
    if not folders:
        raise TooFewClasses(
            f"{here} holds {loose} images but no classes; expected are {HINT}. "
            "To train without classes add --unconditional."
        )
    notes = []
    direct = {parts[0] for parts in inner if len(parts) == 2}
    if len(folders) == 1 and not direct:
        deeper = sorted({parts[1] for parts in inner if len(parts) > 2})
        raise UserError(
            f"{here} is one level too high: its only folder {folders[0]} holds no images itself but "
            f"{len(deeper)} folders with images ({', '.join(deeper[:3])}…); give {here}/{folders[0]}"
        )
    if not direct:
        notes.append(
            f"no images directly in the {len(folders)} class folders: all lie deeper; class = first folder"
        )
    if loose:
        notes.append(f"{loose:,} {_files(loose)} beside the class folders left aside")
    ids = {name: i for i, name in enumerate(folders)}
    kept = [(ids[parts[0]], path) for parts, path in zip(inner, images, strict=True) if len(parts) > 1]
    kept.sort()
    return Tree([path for _, path in kept], np.array([label for label, _ in kept]), folders, notes=notes)


def _by_label_file(images: list[str], root: str, here: str, label_file: str, data: bytes) -> Tree:
    name = label_file[len(root) :]
    rows = _csv_rows(data, here) if name.endswith(".csv") else _json_rows(data, here)
    if rows is None:
        return _by_folder(images, root, here)
    where, known = f"{here}/{name}", set(images)
    missing = [file for file, _ in rows if root + file not in known]
    if missing:
        raise UserError(
            f"{where} lists {len(missing)} of {len(rows)} images that {here} does not hold: "
            f"{', '.join(missing[:3])}{'…' if len(missing) > 3 else ''}; correct the list."
        )
    labels = dict(rows)
    if len(labels) != len(rows):
        twice = next(file for file, n in Counter(file for file, _ in rows).items() if n > 1)
        raise UserError(f"{where} lists {twice} more than once; one label per image.")
    notes = [f"labels from {name}"]
    if len(labels) < len(images):
        notes.append(f"{len(images) - len(labels):,} images not listed in {name} left aside")
    numbered = all(re.fullmatch(r"-?[0-9]+", label) for label in labels.values())
    if numbered:
        ids = np.array([int(label) for label in labels.values()])
        classes = numbered_classes(ids, where)
    else:
        classes = sorted(set(labels.values()))
        position = {label: i for i, label in enumerate(classes)}
        ids = np.array([position[label] for label in labels.values()])
    found = sorted(zip(ids.tolist(), labels, strict=True))
    return Tree(
        [root + file for _, file in found],
        np.array([i for i, _ in found]),
        classes,
        numbered=numbered,
        notes=notes,
    )


def _csv_rows(data: bytes, here: str) -> list[tuple[str, str]]:
    text = data.decode("utf-8-sig", errors="replace")
    first = text.split("\n", 1)[0]
    delimiter = next((d for d in ",\t;" if d in first), ",")
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    for number, row in enumerate(rows, 1):
        if len(row) < 2 or not row[1].strip():
            raise UserError(f"{here}/labels.csv, row {number}: {row} has no label; rows are filename,label")
    if rows and not is_image(rows[0][0]):
        rows = rows[1:]  # the header
    if not rows:
        raise UserError(f"{here}/labels.csv has no rows; rows are filename,label")
    return [(row[0].strip().removeprefix("./"), row[1].strip()) for row in rows]


def _json_rows(data: bytes, here: str) -> list[tuple[str, str]] | None:
    """StyleGAN's form {"labels": [[file, id], …]}; null means there are no labels."""
    expected = f'{here}/dataset.json is not {{"labels": [["file.png", 0], …]}}'
    try:
        labels = json.loads(data)["labels"]
        if labels is None:
            return None
        return [(str(file).removeprefix("./"), str(int(label))) for file, label in labels]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{expected} ({error}); correct or remove it.") from None
