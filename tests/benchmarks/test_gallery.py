"""The GANs for digits side by side: the table that docs/baselines.md shows is the one that is printed."""

from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_table_is_printed_as_the_docs_show_it() -> None:
    pytest.importorskip("sklearn")
    import gallery

    row = {"images": 27000, "seconds": 120, "g_steps": 422, "accuracy": 0.983, "variance": 0.43}
    shown = (DOCS / "baselines.md").read_text(encoding="utf-8")
    assert gallery.table({"digits": row}, 0.991) in shown
