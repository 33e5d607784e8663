"""Plans: counted from the recipe, refused where they cannot be, and plain about what is an estimate."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gansmith import config as configuration
from gansmith import planning
from gansmith.cli.plan import plan as command
from gansmith.errors import UserError
from gansmith.planning import gpus, layouts, work
from gansmith.planning.memory import Memory
from gansmith.training import batching
from gansmith.training.checkpoint import listed

SMALL = {"model.ch": 4}


def small(gpu: str = "2xV100", prices: layouts.Prices | None = None, **more: Any) -> planning.Plan:
    settings = SMALL | more.pop("settings", {})
    config, _ = configuration.load("digits", overrides=settings)
    return planning.plan(config, gpu, prices or layouts.Prices(), **more)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


@pytest.fixture
def weightless(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 GiB and 10 MiB an image, without counting any tensor: for tests of everything else."""

    def measure(config: Any, classes: int, group: int, micro: int, micro_g: int, dtype: Any) -> Memory:
        return Memory(2**30, micro * 10 * 2**20, micro * 10 * 2**20, 1000, 800)

    monkeypatch.setattr(planning.memory, "measure", measure)


@pytest.mark.parametrize(
    ("text", "number", "name"),
    [
        ("8xH100", 8, "H100"),
        ("h200", 1, "H200"),
        ("4 x A100-80GB", 4, "A100"),
        ("2×v100-32gb", 2, "V100-32GB"),
    ],
)
def test_gpus_are_named_as_people_do(text: str, number: int, name: str) -> None:
    count, gpu = gpus.parse(text)
    assert (count, gpu.name) == (number, name)


@pytest.mark.parametrize("text", ["8xH101", "0xH100", "", "x", "-1xH100", "8 H100", "1.5xH100"])
def test_unknown_gpus_name_the_known_ones(text: str) -> None:
    with pytest.raises(UserError, match=r"--gpus.*(\. Known|\? Known|; known): T4, V100, .*H100, H200, B200"):
        gpus.parse(text)


def test_flops_are_those_of_the_phases() -> None:
    """Reference counts of BigGAN at 128 px, ch96: 21.1 and 10.8 GMAC forward; 515 GFLOP per batch slot with
    two D phases. Exact rewrites of shortcuts save a few percent of it.
    """
    config, _ = configuration.load("biggan-128")
    sizes = batching.resolve(config, 64, 1)
    found = work.count(config, 1000, sizes)
    assert found.forward_g == pytest.approx(42.2e9, rel=0.06)
    assert found.forward_d == pytest.approx(21.7e9, rel=0.06)
    assert found.phase_d == found.forward_g + 6 * found.forward_d
    assert found.phase_g == 3 * found.forward_g + 2 * found.forward_d
    assert found.step == 2048 * (2 * found.phase_d + found.phase_g)
    assert found.step / 2048 == pytest.approx(515e9, rel=0.06)
    assert found.per_image * 2 * 2048 == found.step
    assert (found.parameters_g / 1e6, found.parameters_d / 1e6) == pytest.approx((70.4, 88.0), abs=0.1)


@pytest.mark.usefixtures("weightless")
def test_the_published_rate_is_met() -> None:
    """8 × V100 in fp32 ran BigGAN-PyTorch's recipe at 225 to 241 images/s, one D phase per step."""
    config, _ = configuration.load("biggan-128-ajbrock", overrides={"train.precision": "fp32"})
    made = planning.plan(config, "8xV100", layouts.Prices())
    assert made.utilisation.published
    rates = made.asked.images_per_second
    assert rates is not None
    assert 215 < rates.low < rates.likely < rates.high < 260


@pytest.mark.usefixtures("weightless")
def test_days_and_money_follow_from_the_rate() -> None:
    config, _ = configuration.load("biggan-128")
    made = planning.plan(config, "8xH100", layouts.Prices(2.5, storage=0.1, transfer=0.02))
    way = made.asked
    assert way.images_per_second and way.days and way.gpu_hours and way.cost  # noqa: PT018
    assert way.days.likely == pytest.approx(676e6 / way.images_per_second.likely / 86400)
    assert way.gpu_hours.likely == pytest.approx(way.days.likely * 24 * 8)
    assert way.cost.likely == pytest.approx(way.gpu_hours.likely * 2.5)
    # 989 TFLOP/s × 20 % × 8, without exchange
    assert way.images_per_second.likely == pytest.approx(8 * 989e12 * 0.2 / made.work.per_image, rel=0.02)
    assert not made.utilisation.published
    assert made.transfer == pytest.approx(made.disk.data / 1e9 * 0.02)
    assert made.storage == pytest.approx(made.disk.total / 1e9 * 0.1 * way.days.likely / 30.4)
    assert [layout.gpus for layout in made.layouts] == [1, 2, 4, 8, 16]
    assert made.cheapest == 1


@pytest.mark.usefixtures("weightless")
def test_the_cheapest_layout_within_a_time() -> None:
    config, _ = configuration.load("biggan-128")
    days = {
        way.gpus: way.days.likely
        for way in planning.plan(config, "8xH100", layouts.Prices()).layouts
        if way.days
    }
    limit = (days[4] + days[2]) / 2
    assert planning.plan(config, "8xH100", layouts.Prices(), within=limit).cheapest == 4
    assert planning.plan(config, "8xH100", layouts.Prices(), within=1e-6).cheapest is None


def test_a_row_that_shows_the_limit_is_within_it_and_marks_are_told(weightless: None) -> None:
    config, _ = configuration.load("biggan-256")
    made = planning.plan(config, "4xA100", layouts.Prices())
    days = next(way.days.likely for way in made.layouts if way.gpus == 4 and way.days)
    shown = f"{days:.3g}"
    assert float(shown) < days, "choose a plan whose time is rounded down"
    said = invoke("--preset", "biggan-256", "--gpus", "4xA100", "--within", shown).output
    assert f"cheapest within {shown} days: 4 × A100" in said
    assert "\n→*   4 " in said
    assert "→ what --gpus asks for; * the cheapest\n" in said
    said = invoke("--preset", "biggan-256", "--gpus", "4xA100", "--within", "0.01").output
    assert "→ what --gpus asks for\n" in said
    assert "no layout of these finishes within 0.01 days" in said


@pytest.mark.usefixtures("weightless")
def test_micro_batches_fit_the_gpu_and_hold_whole_groups() -> None:
    config, _ = configuration.load("biggan-128")
    v100 = planning.plan(config, "4xV100", layouts.Prices()).asked
    # 0.9 × 15.7 GiB less 1 GiB hold 1,344 images of 10 MiB: the cap of 256 is what bounds
    assert v100.micro_batch == 256
    assert v100.memory_gib == pytest.approx(1 + 256 * 10 / 1024)
    assert v100.passes == 2
    alone = planning.plan(config, "3xV100", layouts.Prices()).asked
    assert alone.problem is not None
    assert "2048" in alone.problem


def test_a_gpu_that_is_too_small_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    large = lambda *_: Memory(20 * 2**30, 2**30, 2**30, 1, 1)  # noqa: E731
    monkeypatch.setattr(planning.memory, "measure", large)
    config, _ = configuration.load("biggan-128")
    made = planning.plan(config, "T4", layouts.Prices())
    assert made.cheapest is None
    assert "needs 21.0 GiB of 14.5" in str(made.asked.problem)


@pytest.mark.usefixtures("weightless")
def test_small_networks_wait_for_the_cpu_that_feeds_the_gpu() -> None:
    slow, fast = small("1xV100").asked.images_per_second, small("1xB200").asked.images_per_second
    assert slow is not None
    assert fast is not None
    assert fast.likely == pytest.approx(slow.likely)  # both are bound by operations, not by arithmetic


def test_exchange_of_gradients_is_a_ring() -> None:
    config, _ = configuration.load("biggan-128")
    counted = work.count(config, 1000, batching.resolve(config, 64, 1))
    gpu = gpus.GPUS["H100"]
    size = 4 * (2 * counted.parameters_d + counted.parameters_g)
    assert layouts.exchange_seconds(config, counted, 1, gpu, 25) == 0
    assert layouts.exchange_seconds(config, counted, 8, gpu, 25) == pytest.approx(1.75 * size / 450e9)
    assert layouts.exchange_seconds(config, counted, 16, gpu, 25) == pytest.approx(1.875 * size / 25e9)


@pytest.mark.usefixtures("weightless")
def test_disk_is_what_a_run_leaves(tmp_path: Path) -> None:
    """Against the files of a real run, with headers: within 3 %."""
    from gansmith.training import run

    settings = SMALL | {"train.duration": 320, "log.checkpoint_every": 64, "log.snapshot_every": 64,
                        "log.keep_checkpoints": 1, "log.keep_spaced": 1, "log.keep_snapshots": 2,
                        "log.statistics_images": 32, "log.grid_columns": 2}  # fmt: skip
    out = run.train("builtin:digits", "digits", tmp_path / "run", settings=settings)
    disk = small(settings=settings).disk
    one = sum(file.stat().st_size for file in listed(out / "checkpoints")[-1].iterdir())
    # Hundreds of tensors of a few numbers: their names weigh as much as half of such a checkpoint's values.
    assert disk.checkpoint == pytest.approx(one, rel=0.15)
    assert disk.checkpoints == 3 * disk.checkpoint
    assert disk.snapshots == 3 * disk.snapshot
    grids = sum(file.stat().st_size for file in (out / "samples").iterdir())
    assert grids < disk.grids * 1.5


def test_disk_of_prepared_data_is_exact_to_a_percent(shared_dir: Path) -> None:
    """50,000 CIFAR images, prepared raw, took 256.0 MB of shards and 1 MB of index."""
    config, _ = configuration.load("cifar10")
    counted = work.count(config, 10, batching.resolve(config, 64, 1))
    assert work.disk(config, counted, 50_000, 10**6).data == pytest.approx(257.0e6, rel=0.01)


def test_command_prints_what_it_assumes_and_json_has_all(weightless: None) -> None:
    text = invoke("--preset", "biggan-128", "--gpus", "8xH100", "--price", "2.5")
    assert text.exit_code == 0, text.output
    for part in ("assumed", "NOT MEASURED", "GFLOP per image seen", "cheapest: 1 × H100", "at most"):
        assert part in text.output
    made = json.loads(invoke("--preset", "biggan-128", "--gpus", "8xH100", "--json").output)
    assert made["duration"] == 676_000_000
    assert made["layouts"][3]["gpus"] == 8
    assert made["layouts"][3]["cost"] is None
    assert made["utilisation"]["published"] is False
    assert made["disk_total"] == sum(
        made["disk"][key] for key in ("data", "checkpoints", "snapshots", "grids")
    )


def test_measuring_here_leaves_the_other_gpus_rate_alone(weightless: None) -> None:
    arguments = [
        "--preset",
        "digits",
        "--set",
        "model.ch=4",
        "--gpus",
        "H100",
        "--measure",
        "--device",
        "cpu",
    ]
    text = invoke(*arguments).output
    assert "measured here (cpu, 1 threads" in text
    assert "this machine is no H100: the table above does not use that measurement" in text
    here = json.loads(invoke(*arguments, "--json").output)["here"]
    assert 1 < here["images_per_second"] < 1e5
    assert here["flop_per_second"] > 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "H100"], "--preset is missing; one of biggan-128"),
        (["--preset", "digits", "--gpus", "H101"], "did you mean H100"),
        (["--preset", "digit", "--gpus", "H100"], "did you mean digits"),
        (["--preset", "digits", "--gpus", "H100", "--price", "-1"], "--price -1: must be an amount"),
        (["--preset", "digits", "--gpus", "H100", "--price", "nan"], "--price nan: must be an amount"),
        (["--preset", "digits", "--gpus", "H100", "--images", "0"], "--images 0: must be above 0"),
        (["--preset", "digits", "--gpus", "H100", "--within", "-2"], "--within -2: must be above 0"),
        (["--preset", "digits", "--gpus", "H100", "--network", "0"], "--network 0: must be above 0"),
        (["--preset", "digits", "--gpus", "H100", "--device", "cpu"], "add --measure"),
        (["--preset", "digits", "--gpus", "H100", "--measure", "--device", "abc"], "abc is unknown"),
        (["--preset", "digits", "--gpus", "H100", "--set", "train.batch=3"], "nearest: 32"),
        (
            ["--preset", "digits", "--gpus", "H100", "--set", "loss.objective=a:b"],
            "only gansmith's own losses",
        ),
    ],
)
def test_mistakes_name_the_flag_and_the_fix(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_steps_follow_a_growing_batch(weightless: None) -> None:
    told = invoke("--preset", "digits", "--gpus", "V100", "--set", "model.ch=4", "--batch", "64",
                  "--set", "train.duration=1280", "--set", "batch.schedule=0:64,640:128").output  # fmt: skip
    assert "digits: 1,280 images = 8 steps of 128 to 256 images, batch 64\n" in told
