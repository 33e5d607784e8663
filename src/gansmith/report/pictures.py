"""A run's pictures as data URIs: chosen, re-encoded and shrunk until the page stays small enough to send.

The files themselves are never touched. Knows names and pixels of pictures, not what they show.
"""

import base64
import io
import re
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, features

BUDGET = 9_000_000  # bytes of all pictures together; as text in the page they take a third more
LARGEST_SIDE = 1800  # pixels
# (kind as in samples/N-KIND.png, title, most pictures shown of it)
KINDS = (
    ("", "averaged G", 48),
    ("raw", "G as trained", 24),
    ("interpolation", "interpolations", 24),
)
MOST_OTHERS = 24
_NAME = re.compile(r"^(?P<images>\d+)(?:-\d+)?(?:[-_](?P<kind>\D.*))?$")  # -1: made after going back


@dataclass
class Pictures:
    """reals: one picture. frames: kind → [{"images": number | None for init, …}]. others: with captions.

    A picture is {"src": data URI, "width", "height": pixels of the file}.
    """

    reals: dict[str, Any] | None = None
    frames: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    others: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: int = 0


def collect(run: Path, budget: int = BUDGET) -> Pictures:
    """Everything there is to see in a run's folder, within `budget` bytes. Damaged files are named in
    `problems`.
    """
    found = Pictures()
    wanted: list[tuple[str, float | None, Path]] = []
    for kind, _, most in KINDS:
        frames = _frames(run / "samples", kind)
        chosen = spread(frames, most)
        found.left_out += len(frames) - len(chosen)
        wanted += [(kind, images, path) for images, path in chosen]
    others, more = _others(run / "evaluation")
    found.left_out += more
    left = 1 + len(wanted) + len(others)
    encode = _Encoder(budget, left, found.problems)
    found.reals = encode(run / "reals.png") if (run / "reals.png").is_file() else None
    for title, path in others:
        if picture := encode(path):
            found.others.append({"title": title, "file": f"evaluation/{path.name}"} | picture)
    for kind, images, path in wanted:
        if picture := encode(path):
            frame = {"images": images, "file": f"samples/{path.name}"} | picture
            found.frames.setdefault(kind, []).append(frame)
    return found


def spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spread, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


class _Encoder:
    """Gives each picture its share of what is left of the budget."""

    def __init__(self, budget: int, pictures: int, problems: list[str]) -> None:
        self.left, self.pictures, self.problems = budget, pictures, problems

    def __call__(self, path: Path) -> dict[str, Any] | None:
        share = self.left // max(self.pictures, 1)
        self.pictures -= 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as picture:
                    picture.load()
                    data, kind = shrunk(picture, share)
                    size = picture.size
        # Pillow raises each of these for one damage or another.
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            zlib.error,
            Image.DecompressionBombError,
        ) as error:
            self.problems.append(f"{path.parent.name}/{path.name} cannot be shown: {error}")
            return None
        self.left -= len(data)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        return {"src": source, "width": size[0], "height": size[1]}


def shrunk(picture: Image.Image, limit: int) -> tuple[bytes, str]:
    """The picture in at most `limit` bytes, as far as 64 pixels allow, and its format: `webp`, or `jpeg`
    where Pillow has no WebP. Quality goes first, then size.
    """
    kind = "webp" if features.check("webp") else "jpeg"
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    while True:
        for quality in (92, 82, 70):
            buffer = io.BytesIO()
            picture.save(buffer, format=kind.upper(), quality=quality)
            if buffer.tell() <= limit:
                return buffer.getvalue(), kind
        if max(picture.size) <= 64:
            return buffer.getvalue(), kind
        factor = max(0.5, min(0.9, (limit / buffer.tell()) ** 0.5))
        side = max(int(max(picture.size) * factor), 64)
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)


def _frames(folder: Path, kind: str) -> list[tuple[float | None, Path]]:
    """(images seen, file) in order; init.png, the untrained G as trained, opens both kinds of grids."""
    frames: list[tuple[float | None, Path]] = []
    for path in sorted(folder.glob("*.png")):
        match = _NAME.match(path.stem)
        if match and (match["kind"] or "") == kind:
            frames.append((int(match["images"]), path))
    frames.sort(key=lambda frame: frame[0] or 0)
    init = folder / "init.png"
    opens = init.is_file() and (kind == "" or (kind == "raw" and bool(frames)))
    return [(None, init), *frames] if opens else frames


def _others(folder: Path) -> tuple[list[tuple[str, Path]], int]:
    """(title, file) of the newest picture of each name, and how many files there are besides."""
    newest: dict[str, tuple[int, str, Path]] = {}
    files = [path for path in sorted(folder.rglob("*.png")) if path.is_file()]
    for path in files:
        match = _NAME.match(path.stem)
        images, kind = (int(match["images"]), match["kind"] or "picture") if match else (-1, path.stem)
        where = f"{path.parent.relative_to(folder)}/{kind}".removeprefix("./")
        if kind not in newest or (images, where) >= newest[kind][:2]:
            newest[kind] = (images, where, path)
    entries = []
    for kind, (images, _, path) in sorted(newest.items()):
        title = kind.replace("_", " ").replace("-", " ")
        title = title[:1].upper() + title[1:]
        entries.append((f"{title}, at {images:,} images" if images >= 0 else title, path))
    shown = entries[:MOST_OTHERS]
    return shown, len(files) - len(shown)
