"""All the GANs for digits, after equal time on one core: a score each, and one picture of them side by side.

    python benchmarks/gallery.py --out runs/gallery --seconds 120

How many images a recipe sees in that time is measured first, in seconds of this process on its core, so that
it does not matter what else the machine does. Each is then trained for so many images, and scored with 100
per class as demo/score_digits.py does: the share that a support vector machine reads as the digit asked for,
and the variance within a class over the real one's. Finished runs are only scored again, unfinished ones go
on. Writes OUT/results.json and OUT/gallery.png, and prints the table.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

import gansmith
from gansmith import config
from gansmith.sampling import grids
from gansmith.training import checkpoint
from gansmith.training.run import train

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from score_digits import PER_CLASS, Judge

PRESETS = tuple(name for name in config.preset_names() if name.partition("-")[0] == "digits")
COLUMNS = 6  # images per class in the picture
PANELS = 4  # side by side
TITLE = 22  # pixels above a panel
QUIET = {
    "train.threads": 1,
    "log.snapshot_every": "100M",
    "log.checkpoint_every": "100M",
    "watch.every": None,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, results and the picture")
    parser.add_argument("--seconds", type=float, default=120, help="of training, on one core")
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "results.json"
    rows: dict[str, dict[str, Any]] = json.loads(results.read_text()) if results.exists() else {}
    judge, drawn = Judge(), {"real": reals()}
    for name in options.presets:
        row = rows.setdefault(name, {})
        if row.get("seconds") != options.seconds or row.get("seed") != options.seed:
            row |= {"seconds": options.seconds, "seed": options.seed}
            row["images"] = int(options.seconds * rate(name)) // 1000 * 1000
            results.write_text(json.dumps(rows, indent=1) + "\n")  # as many, when this is started again
        run = train(
            "builtin:digits", name, options.out / f"{name}-{options.seconds:g}s-{options.seed}",
            settings=QUIET | {"train.duration": row["images"], "train.seed": options.seed},
        )  # fmt: skip
        row["g_steps"] = checkpoint.read_record(checkpoint.listed(run / "checkpoints")[-1])["step"]
        drawn[name] = gansmith.load(run).sample(PER_CLASS)
        row["accuracy"], row["variance"] = judge.scores(drawn[name])
        results.write_text(json.dumps(rows, indent=1) + "\n")
    picture(drawn).save(options.out / "gallery.png", optimize=True)
    print(table({name: rows[name] for name in options.presets}, judge.on_reals))


def rate(name: str, short: int = 256, long: int = 2048) -> float:
    """Images a recipe trains on per second of one core: from two short runs, whose start costs the same."""
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        for images in (short, short, long):  # the first one warms up
            before = time.process_time()
            train(
                "builtin:digits",
                name,
                Path(folder) / f"{len(spent)}",
                settings=QUIET | {"train.duration": images},
            )
            spent.append(time.process_time() - before)
    return (long - short) / (spent[2] - spent[1])


def reals() -> np.ndarray:
    """uint8 (10·n, 32, 32, 1): the first digits of each class, enlarged."""
    images, labels = load_digits(return_X_y=True)
    chosen = [np.flatnonzero(labels == digit)[:COLUMNS] for digit in range(10)]
    pixels = (images[np.concatenate(chosen)].reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.LANCZOS)) for image in pixels
    ]
    return np.stack(large)[..., None]


def picture(drawn: dict[str, np.ndarray]) -> Image.Image:
    """A panel for each: a digit per row."""
    panels = []
    for name, images in drawn.items():
        rows = images.reshape(10, -1, 32, 32, 1)[:, :COLUMNS].reshape(-1, 32, 32, 1)
        tiled = grids.tile(rows, COLUMNS)
        panel = Image.new("L", (tiled.width + 12, tiled.height + TITLE + 6), 255)
        panel.paste(tiled, (0, TITLE))
        ImageDraw.Draw(panel).text((0, 3), name, fill=0, font=ImageFont.load_default(14))
        panels.append(panel)
    width, height = panels[0].size
    sheet = Image.new("L", (width * min(PANELS, len(panels)), height * -(-len(panels) // PANELS)), 255)
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index % PANELS * width, index // PANELS * height))
    return sheet.quantize(16)  # greys enough for digits, and a third of the file


def table(rows: dict[str, dict[str, Any]], on_reals: float) -> str:
    lines = [
        "| recipe | images | images/s | G steps | read as asked | variance within a class |",
        "|---|---|---|---|---|---|",
        f"| real digits, held out | | | | {on_reals:.3f} | 1 |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['images']:,} | {row['images'] / row['seconds']:.0f} | {row['g_steps']:,} "
            f"| {row['accuracy']:.3f} | {row['variance']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
