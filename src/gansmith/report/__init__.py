"""One self-contained HTML page about a run: configuration, curves, scores, pictures, events.

Reads files of runs, which may be half-written or damaged, and imports neither torch nor the training room.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gansmith import files
from gansmith.errors import UserError
from gansmith.report import overlays, page, pictures, records, scores, settings
from gansmith.report.curves import Source

LARGEST_MB = 16  # of the page, whatever the run's length


def write(
    run: Path,
    out: Path | None = None,
    references: Sequence[str] = (),
    *,
    preset_values: settings.PresetValues | None = None,
) -> Path:
    """Writes the report of the run in folder `run` to `out` (None: RUN/report.html) and returns its path.

    references: logs to lay over, each `PATH[,name=…][,step=…][,COLUMN=METRIC…]` (overlays.read).
    preset_values: gives a preset's values by dotted path, to show what differs from it. Raises UserError for
    a folder that is no run, a reference that means nothing, or an `out` that cannot be written.
    """
    if not run.is_dir():
        what = "is a file; give the run's folder" if run.exists() else "is not there; give a run's folder"
        raise UserError(f"RUN {run} {what}, e.g. runs/cifar10-photos.")
    if not any((run / name).is_file() for name in ("metrics.jsonl", "config.yaml")):
        raise UserError(f"RUN {run} has neither metrics.jsonl nor config.yaml: it is no run's folder.")
    target = out or run / "report.html"
    if target.is_dir() or not target.parent.is_dir():
        problem = "is a folder" if target.is_dir() else f"is in a folder that is not there ({target.parent})"
        raise UserError(f"--out {target} {problem}; give a file, e.g. --out report.html.")
    log = records.read(run / "metrics.jsonl")
    known = {row["name"] for row in scores.newest(log.of("evaluation"))}
    sources = [Source(run.resolve().name, log), *(overlays.read(spec, known) for spec in references)]
    text = page.render(run, sources, settings.read(run, preset_values or _no_preset), pictures.collect(run))
    try:
        files.write_text(target, text)
    except OSError as error:
        raise UserError(
            f"--out {target}: cannot be written ({error.strerror or error}); give another."
        ) from None
    return target


def _no_preset(name: str | None) -> Mapping[str, Any] | None:
    return None
