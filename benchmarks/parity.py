"""How far our networks are from the programs whose weights they read: a row for every file and output.

    python benchmarks/parity.py FOLDER [FOLDER …]

A folder holds weights of any format that `gansmith convert` reads, and io.safetensors with what the original
computed from them: `z`, `y` → `G_ema_images`, `G_images` or `images` (with `truncation`), and `x`, `y` →
`D_logits_on_x`, `D_logits_on_G_ema_images`. Images differ absolutely (bound 5e-5), logits relatively (1e-4).
Exit code 1 if a bound is broken.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from gansmith.weights.convert import open_any
from gansmith.weights.imported import Imported

BOUNDS = {"absolute": 5e-5, "relative": 1e-4}
Row = tuple[str, str, str, float]


@torch.no_grad()
def rows(folder: Path) -> Iterator[Row]:
    """(folder, output, kind of error, largest error) of every output that is there."""
    imported, io = open_any(folder), load_file(folder / "io.safetensors")
    if "truncation" in io and imported.G is not None and imported.G.statistics_table is not None:
        imported.G.statistics_table.put(imported.G, float(io["truncation"]))
    for name, G in generators(imported).items():
        if name in io:
            count = len(io[name])
            difference = G(io["z"][:count], io["y"][:count]) - io[name]
            yield folder.name, name, "absolute", float(difference.abs().max())
    for images in ("x", "G_ema_images", "G_images"):
        logits: Tensor | None = io.get(f"D_logits_on_{images}")
        if logits is not None and imported.D is not None:
            count = len(io[images])
            difference = imported.D(io[images], io["y"][:count]) / logits[:count] - 1
            yield folder.name, f"D_logits_on_{images}", "relative", float(difference.abs().max())


def generators(imported: Imported) -> dict[str, torch.nn.Module]:
    averaged = imported.info["ema"]
    named = {"images": imported.G, "G_ema_images" if averaged else "G_images": imported.G}
    if imported.G_raw is not None:
        named["G_images" if averaged else "G_ema_images"] = imported.G_raw
    return {name: G for name, G in named.items() if G is not None}


def main(folders: list[Path]) -> int:
    torch.set_num_threads(1)
    print(f"{'folder':<28} {'output':<26} {'error':<9} {'largest':>8}  bound")
    broken = 0
    for folder in folders:
        for name, output, kind, error in rows(folder):
            within = error <= BOUNDS[kind]
            broken += not within
            verdict = "" if within else "  BROKEN"
            print(f"{name:<28} {output:<26} {kind:<9} {error:8.1e}  {BOUNDS[kind]:.0e}{verdict}")
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    sys.exit(main(parser.parse_args().folders))
