"""`gansmith sample` and `gansmith info` as a shell sees them: files, messages, exit codes."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gansmith import cli
from gansmith.cli.sample import parse_classes, parse_seeds, parse_thresholds
from gansmith.errors import UserError
from gansmith.models.biggan import Generator
from gansmith.sampling import sampler
from gansmith.training import checkpoint
from gansmith.weights import snapshot

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gansmith(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `gansmith ARGUMENTS` in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gansmith", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capfd.readouterr()

    return run


def test_images_as_files(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    code, out, err = gansmith("sample", "images", run_folder, "--out", tmp_path / "new", "--num", 2)
    assert (code, err) == (0, "")
    assert f"2,000 images seen; sampling on {sampler.load(run_folder).device}, fp32" in out
    assert f"12 images of 6 classes → {tmp_path / 'new'}" in out
    stems = ["cat", "dog", "hot-dog-red-hot", "a-b-c", "süß", "犬"]
    names = {f"{stem}_{seed:06d}.png" for stem in stems for seed in (0, 1)}
    assert set(os.listdir(tmp_path / "new")) == names
    expected = sampler.load(run_folder).sample(seeds=[1], classes=["a/b c"])[0].astype(int)
    with Image.open(tmp_path / "new/a-b-c_000001.png") as picture:
        assert np.abs(np.asarray(picture) - expected).max() <= 1


def test_images_as_npz(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    options = ["--classes", "hot dog, red hot,5", "--seeds", "0-2,9", "--truncation", 0.5, "--micro-batch", 3]
    code, out, _ = gansmith("sample", "images", run_folder, "--out", tmp_path / "x.npz", *options)
    assert code == 0
    assert "8 images of 2 classes" in out
    with np.load(tmp_path / "x.npz") as archive:
        assert archive["labels"].tolist() == [2] * 4 + [5] * 4
        assert archive["seeds"].tolist() == [0, 1, 2, 9] * 2
        wanted: dict[str, Any] = {"seeds": [0, 1, 2, 9], "classes": [2, 5], "truncation": 0.5}
        expected = sampler.load(run_folder).sample(**wanted, micro_batch=3)
        assert np.array_equal(archive["images"], expected)


def test_grid_has_a_row_per_class(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    code, out, _ = gansmith("sample", "grid", run_folder, "--out", tmp_path / "grid.png", "--seeds", "3,1")
    assert code == 0
    assert "evenly spaced" not in out
    pixels = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    expected = sampler.load(run_folder).sample(seeds=[3, 1]).reshape(6, 2, 32, 32, 3)
    margin = pixels.shape[1] - (2 * 32 + 2)
    for row in range(6):
        for column in range(2):
            left = margin + column * 34
            tile = pixels[row * 34 : row * 34 + 32, left : left + 32]
            assert np.abs(tile - expected[row, column]).max() <= 1


def test_grid_of_many_classes_shows_some_saying_so(
    gansmith: Run, build: Callable[..., Generator], describe: Callable[..., Any], tmp_path: Path
) -> None:
    stored = {"truncation": 1.0, "kind": "none", "images": 16, "group": 16}
    G = build(num_classes=100, ch=1, attention=())
    snapshot.save(tmp_path / "many.safetensors", G, info=describe(100, statistics=stored))
    code, out, _ = gansmith(
        "sample", "grid", tmp_path / "many.safetensors", "--out", tmp_path / "g.png", "--seeds", 0
    )
    assert code == 0
    assert "32 of 100 classes, evenly spaced; --classes chooses others" in out
    assert Image.open(tmp_path / "g.png").height == 32 * 34 - 2


def test_a_network_without_classes_is_drawn(
    gansmith: Run, build: Callable[..., Generator], describe: Callable[..., Any], tmp_path: Path
) -> None:
    stored = {"truncation": 1.0, "kind": "none", "images": 16, "group": 16}
    file = tmp_path / "plain.safetensors"
    snapshot.save(file, build(num_classes=0, shared_dim=0), info=describe(0, statistics=stored))
    code, _, err = gansmith("sample", "grid", file, "--out", tmp_path / "g.png", "--seeds", "0-2")
    assert (code, err) == (0, "")
    assert Image.open(tmp_path / "g.png").size == (3 * 34 - 2, 32)
    code, out, err = gansmith("sample", "images", file, "--out", tmp_path / "new", "--num", 2)
    assert (code, err) == (0, "")
    assert f"2 images → {tmp_path / 'new'}" in out
    assert set(os.listdir(tmp_path / "new")) == {"image_000000.png", "image_000001.png"}
    code, _, err = gansmith("sample", "grid", file, "--out", tmp_path / "h.png", "--classes", "0")
    assert code == 2
    assert "classes 0: this network has no classes; leave them out" in err


@pytest.mark.parametrize(("mode", "rows"), [("z", 2), ("class", 1), ("both", 1)])
def test_interpolations(gansmith: Run, run_folder: Path, tmp_path: Path, mode: str, rows: int) -> None:
    options = ["--mode", mode, "--seeds", "0,4,9", "--classes", "cat,dog", "--steps", 5]
    code, _, err = gansmith("sample", "interpolate", run_folder, "--out", tmp_path / "i.png", *options)
    assert (code, err) == (0, "")
    picture = Image.open(tmp_path / "i.png")
    assert picture.height == rows * 34 - 2
    left = picture.width - (5 * 34 - 2)
    first = np.asarray(picture).astype(int)[:32, left : left + 32]
    expected = sampler.load(run_folder).sample(seeds=[0], classes=["cat"])[0]
    assert np.abs(first - expected).max() <= 1


def test_truncation_has_a_row_per_threshold(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    options = ["--thresholds", "none,0.5", "--seeds", "0-2", "--classes", "dog,cat"]
    code, _, _ = gansmith("sample", "truncation", run_folder, "--out", tmp_path / "t.png", *options)
    assert code == 0
    pixels = np.asarray(Image.open(tmp_path / "t.png")).astype(int)
    left = pixels.shape[1] - (3 * 34 - 2)
    network = sampler.load(run_folder)
    for row, truncation in enumerate([None, 0.5]):
        for column, label in enumerate([1, 0, 1]):
            here = pixels[row * 34 : row * 34 + 32, left + column * 34 : left + column * 34 + 32]
            expected = network.sample(seeds=[column], classes=[label], truncation=truncation)[0]
            assert np.abs(here - expected).max() <= 1


def test_a_checkpoint_says_that_it_estimates(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    checkpoint = run_folder / "checkpoints" / "000000003000"
    code, out, err = gansmith("sample", "grid", checkpoint, "--out", tmp_path / "g.png", "--classes", "cat")
    assert code == 0
    assert "3,000 images seen" in out
    assert "estimating standing statistics for no truncation from 128 images" in out
    assert err == "note: the file holds no standing statistics; they are estimated now.\n"


def test_existing_results_are_refused(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    assert gansmith("sample", "images", run_folder, "--out", tmp_path / "a", "--num", 1)[0] == 0
    before = sorted(os.listdir(tmp_path / "a"))
    code, _, err = gansmith("sample", "images", run_folder, "--out", tmp_path / "a", "--num", 3)
    assert code == 2
    assert "is not empty" in err
    assert sorted(os.listdir(tmp_path / "a")) == before


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("images", ["--classes", "dgo"], "nearest: dog"),
        ("images", ["--seeds", "3-1"], "no rising range; write 0-7,12"),
        ("images", ["--seeds", "1,x"], "'x' is no seed"),
        ("images", ["--seeds", "-4"], "'-4' is no seed"),
        ("images", ["--seeds", "0-4,3"], "seed 3 is given twice"),
        ("images", ["--seeds", "1", "--num", "2"], "contradict"),
        ("images", ["--num", "0"], "--num"),
        ("images", ["--truncation", "0"], "above 0"),
        ("images", ["--truncation", "-1", "--truncation-kind", "scale"], "above 0"),
        ("images", ["--truncation", "x"], "--truncation"),
        ("images", ["--micro-batch", "0"], "--micro-batch"),
        ("images", ["--device", "warp"], "--device warp is unknown; write cpu, cuda"),
        ("images", ["--precision", "fp8"], "--precision"),
        ("grid", ["--truncation", "0.001"], "would draw for ever"),
        ("grid", ["--seeds", "0-999999"], "fewer --classes or --seeds"),
        ("truncation", ["--thresholds", "1,a"], "'a' is no number"),
        ("truncation", ["--thresholds", "1,0"], "above 0"),
        ("interpolate", ["--seeds", "3"], "at least two --seeds"),
        ("interpolate", ["--mode", "class", "--classes", "cat"], "at least two --classes"),
        ("interpolate", ["--mode", "w"], "--mode"),
        ("interpolate", ["--steps", "1"], "--steps"),
    ],
)
def test_wrong_options_are_one_message(
    gansmith: Run, run_folder: Path, tmp_path: Path, verb: str, options: list[str], message: str
) -> None:
    out = tmp_path / ("out" if verb == "images" else "out.png")
    code, _, err = gansmith("sample", verb, run_folder, "--out", out, *options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["images", "grid", "interpolate", "truncation"])
@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"damage", "damaged or cut short")]
)
def test_wrong_paths_are_one_message(
    gansmith: Run, tmp_path: Path, verb: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / ("out" if verb == "images" else "out.png")
    code, _, err = gansmith("sample", verb, path, "--out", out)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not out.exists()


def test_pictures_need_a_picture_name(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    code, _, err = gansmith("sample", "grid", run_folder, "--out", tmp_path / "grid.bmp")
    assert (code, err.count("\n")) == (2, 1)
    assert "a name ending in .png" in err
    code, _, err = gansmith("sample", "images", run_folder, "--out", tmp_path / "one.png")
    assert code == 2
    assert "`sample grid`" in err


def test_info_of_a_run_a_snapshot_and_a_checkpoint(gansmith: Run, run_folder: Path) -> None:
    code, out, _ = gansmith("info", run_folder)
    rows = dict(line.strip().split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert rows["snapshots"].startswith("2 (000000001000.safetensors … 000000002000.safetensors)")
    assert rows["checkpoints"].startswith("1 (000000003000)")
    assert "images seen" in out
    assert "2,000" in out
    assert "for no truncation, from 256 images in groups of 16" in out
    assert "resolution=32, num_classes=6" in out
    assert rows["2"] == "hot dog, red hot  (12 images)"
    code, out, _ = gansmith("info", run_folder / "checkpoints/000000003000")
    assert code == 0
    assert out.startswith("checkpoint")
    assert "none yet: estimated when sampled" in out
    assert "G_ema.safetensors" in out
    code, out, _ = gansmith("info", run_folder / "snapshots/000000001000.safetensors")
    assert code == 0
    assert "1,000" in out


def test_info_says_where_a_discriminator_is_and_what_it_passed_over(
    gansmith: Run, run_folder: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    os.truncate(run / "snapshots/000000002000.safetensors", 500)
    code, out, err = gansmith("info", run)
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("note: skipped: ")
    assert re.search("^discriminator +not in the file$", out, re.MULTILINE)
    (run / "checkpoints/000000003000/networks.safetensors").touch()
    _, out, _ = gansmith("info", run / "checkpoints/000000003000")
    assert re.search("^discriminator +in networks.safetensors of this checkpoint$", out, re.MULTILINE)


def test_info_counts_classes_without_names(
    gansmith: Run, build: Callable[..., Generator], describe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    G, file = build(1000, ch=1, attention=()), tmp_path / "random.safetensors"
    snapshot.save(file, G, info=describe(1000, classes=[]))
    code, out, _ = gansmith("info", file)
    assert code == 0
    assert re.search(r"^classes +1,000 classes without names$", out, re.MULTILINE)
    snapshot.save(file, G, info=describe(1000, classes=[{"id": 3, "name": "cat", "count": 5}]))
    assert "1 and 999 classes without names" in gansmith("info", file)[1]


def test_info_names_a_damaged_checkpoint(gansmith: Run, run_folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    (run / "config.yaml").write_text("train:\n  duration: 3000\n")
    record = {"images_seen": 3000, "data": {"images": 10}}
    for name, images in (("000000002000", 2000), ("000000003000", 3000)):
        record |= {"images_seen": images}
        checkpoint.save(run / "checkpoints", {"networks": {}}, record, lambda file: file.touch())
        assert (run / "checkpoints" / name / "manifest.json").exists()
    assert "3,000 of 3,000 images, finished" in gansmith("info", run)[1]
    (run / "checkpoints/000000003000/networks.safetensors").write_bytes(b"")
    code, out, _ = gansmith("info", run)
    assert code == 0
    assert re.search(
        r"^DAMAGED +checkpoint 000000003000: networks.safetensors has 0 bytes", out, re.MULTILINE
    )
    assert re.search(r"^progress +2,000 of 3,000 images, unfinished", out, re.MULTILINE)


def test_python_speaks_of_no_flag(run_folder: Path) -> None:
    with pytest.raises(UserError, match=r"^classes: 'cta' is neither a class name nor an id below 6"):
        sampler.load(run_folder).class_ids(["cta"])


def test_info_of_a_new_run(gansmith: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")
    code, out, _ = gansmith("info", tmp_path)
    assert code == 0
    assert out.count("none yet") == 2


def test_info_of_a_data_set(gansmith: Run, tmp_path: Path) -> None:
    described = {
        "format": "gansmith-dataset",
        "version": 1,
        "resolution": [24, 32],
        "channels": 3,
        "storage": "raw",
        "classes": [{"id": 0, "name": "cat", "count": 1234}],
        "num_images": 1234,
        "content_hash": "sha256:abc",
        "settings": {"crop": "center"},
        "source": "cats.zip",
        "shards": [{"name": "shard-000000.tar", "bytes": 2_500_000, "images": 1234}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    code, out, _ = gansmith("info", tmp_path)
    assert code == 0
    for text in (
        "32 × 24, 3 channels, stored as raw",
        "crop=center",
        "1 shards, 2.5 MB",
        "cat  (1,234 images)",
    ):
        assert text in out
    (tmp_path / "dataset.json").write_text("{}")
    code, _, err = gansmith("info", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "does not describe a prepared data set" in err


@pytest.mark.parametrize("name", ["nothing", "empty", "file.txt"])
def test_info_of_anything_else_is_one_message(gansmith: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    code, _, err = gansmith("info", tmp_path / name)
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("harm", ["flipped byte", "NaN"])
def test_info_of_a_damaged_snapshot_ends_with_a_message(
    gansmith: Run, run_folder: Path, tmp_path: Path, harm: str
) -> None:
    file = tmp_path / "000000001000.safetensors"
    data = bytearray((run_folder / "snapshots" / file.name).read_bytes())
    data[-4:] = bytes([data[-4] ^ 1, *data[-3:]]) if harm == "flipped byte" else b"\0\0\xc0\x7f"
    file.write_bytes(data)
    code, out, err = gansmith("info", file)
    assert code == 2
    assert "images seen" in out  # the description is whole
    assert err.startswith(f"error: {file}")
    assert "damaged" in err or "NaN" in err


def test_seeds_are_parsed_lazily() -> None:
    assert list(parse_seeds("0-3, 12,7")) == [0, 1, 2, 3, 12, 7]
    assert parse_seeds("0-999999999999") == range(10**12)


def test_thresholds_are_parsed() -> None:
    assert parse_thresholds("none, 1,.5") == [None, 1.0, 0.5]
    with pytest.raises(UserError):
        parse_thresholds("")


def test_commas_in_class_names_do_not_split_them(run_folder: Path) -> None:
    network = sampler.load(run_folder)
    assert parse_classes("cat,hot dog, red hot, 3", network) == ["cat", "hot dog, red hot", "3"]
    assert parse_classes(None, network) is None
