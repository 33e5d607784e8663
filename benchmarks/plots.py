"""matplotlib for the benchmarks that draw figures: asked for before the work, not after it."""

import sys

from gansmith.errors import EXIT_USAGE, UserError
from gansmith.evaluation.sweep import plotting


def ready() -> None:
    """Ends the program with one message and exit code 2 where matplotlib is missing."""
    try:
        plotting()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
