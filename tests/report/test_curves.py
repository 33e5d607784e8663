"""Curves keep what matters of long logs, and name the layers that do."""

from pathlib import Path

import pytest

from gansmith.report import curves, records
from gansmith.report.curves import Clock, Source, charts, thin
from gansmith.report.records import Log, Row
from tests.report.writing import status


def log_of(*rows: dict[str, object]) -> Log:
    log = Log([Row(dict(row)) for row in rows])
    records.mark_abandoned(log.rows)
    return log


def chart(made: dict, title: str) -> dict:
    return next(entry for entry in made["charts"] if entry["title"] == title)


def values(made: dict, line: dict) -> dict[float, float | None]:
    return {made["tables"][line["source"]]["images"][i]: v for i, v in zip(line["i"], line["v"])}


def test_a_long_line_keeps_the_spikes_of_every_stretch() -> None:
    count = 20_000
    x = [float(i) for i in range(count)]
    y: list[float | None] = [float(i % 7) for i in range(count)]
    y[777], y[12_345], y[15_000] = 1e6, -1e6, None
    kept = thin(x, y, 300)
    assert len(kept) <= 5 * 300
    assert {0, 777, 12_345, 15_000, count - 1} <= set(kept)
    assert kept == sorted(kept)
    for start in range(0, count - 100, 1000):  # nothing is emptied: 15 stretches lie in each
        inside = [i for i in kept if start <= i < start + 1000]
        present = [y[i] for i in inside if y[i] is not None and abs(y[i] or 0) < 1e6]
        assert min(present) == 0
        assert max(present) == 6


def test_a_short_line_is_kept_whole() -> None:
    assert thin([1.0, 2.0, 2.0], [5.0, None, 7.0], 300) == [0, 1, 2]


def test_thousands_of_rows_say_how_many_are_drawn() -> None:
    made = charts([Source("run", log_of(*(status(n * 100) for n in range(1, 5001))))])
    line = chart(made, "Losses")["lines"][0]
    assert line["of"] == 5000
    assert len(line["i"]) < 1500
    assert len(made["tables"][0]["images"]) < 5000
    drawn = values(made, line)
    assert drawn[100] == 20.0
    assert drawn[500_000] == 0.004


def test_the_layers_with_the_largest_sigma_are_named_and_the_others_grey(run: Path) -> None:
    made = charts([Source("run", records.read(run / "metrics.jsonl"))])
    lines = chart(made, "σ0 in G")["lines"]
    assert [line["label"] for line in lines if line["color"] is not None] == [
        f"layer{k}" for k in (8, 7, 6, 5, 4, 3)
    ]
    assert sum(line["color"] is None for line in lines) == 3
    assert "6 named, 3 in grey" in chart(made, "σ0 in G")["note"]


def test_abandoned_rows_are_a_line_of_their_own(run: Path) -> None:
    made = charts([Source("run", records.read(run / "metrics.jsonl"))])
    line = chart(made, "Losses")["lines"][0]
    assert values(made, line)[7000] == 0.125
    gone = {made["tables"][0]["images"][i]: v for i, v in zip(line["gone"]["i"], line["gone"]["v"])}
    assert gone == pytest.approx({7000: 0.28571, 8000: 0.25, 9000: 0.22222, 10000: 0.2})


def test_nulls_break_the_line_but_a_run_that_skips_nothing_has_no_such_chart() -> None:
    made = charts([Source("run", log_of(status(1000), status(2000, loss_d=None), status(3000)))])
    assert chart(made, "Losses")["lines"][0]["v"] == [2.0, None, 0.66667]
    assert "Skipped steps" not in [entry["title"] for entry in made["charts"]]
    made = charts([Source("run", log_of(status(1000), status(2000, skipped=3)))])
    assert values(made, chart(made, "Skipped steps")["lines"][0]) == {2000: 3.0}


def test_numbers_of_an_own_objective_get_charts_and_missing_columns_do_not() -> None:
    made = charts([Source("run", log_of({"type": "status", "images_seen": 64, "kl": 3.25, "note": "text"}))])
    assert [entry["title"] for entry in made["charts"]] == ["kl"]
    assert charts([Source("run", Log())])["charts"] == []


def test_what_is_watched_and_what_acted_have_charts_of_their_own() -> None:
    watched = {"diversity": 0.9, "effective_rank": None, "diversity_class": {"a": 0.8, "b": 0.3, "c": None}}
    row = status(2000, **watched, noise_scale_d=640.0, flood_d_active=0.25, sigma1={"G.layer0": 1.0})
    made = charts([Source("run", log_of(status(1000), row))])
    assert [line["label"] for line in chart(made, "Diversity")["lines"]] == ["all"]
    assert [line["label"] for line in chart(made, "Diversity by class")["lines"]] == ["b", "a"]
    assert values(made, chart(made, "Gradient noise scale")["lines"][0]) == {2000: 640.0}
    assert values(made, chart(made, "Stabilisers at work")["lines"][0]) == {2000: 0.25}
    titles = [entry["title"] for entry in made["charts"]]
    assert not {"D on held-out images", "sigma1/G.layer0", "flood_d_active"} & set(titles)


def test_references_are_drawn_beside_the_run() -> None:
    other = log_of({"type": "status", "images_seen": 500, "loss_d": 1.5, "sigma0_g": 9.0})
    made = charts([Source("run", log_of(status(1000))), Source("older", other)])
    assert [line["label"] for line in chart(made, "Losses")["lines"]] == ["L_D", "L_G", "L_D · older"]
    assert made["tables"][1]["images"] == [500]
    assert chart(made, "σ0 in G")["lines"][-1]["label"] == "largest · older"


def test_places_on_the_other_axes_are_interpolated() -> None:
    clock = Clock(log_of(status(1000), status(3000)).rows)
    places = clock.places([500, 2000, 3000, 9000])
    assert places["hours"] == pytest.approx([5 / 3600, 20 / 3600, 30 / 3600, None], abs=1e-5)
    assert places["step"] == [7.5, 30.5, 46, None]
    assert curves.shorten(1 / 3) == 0.33333
