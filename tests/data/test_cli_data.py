"""`gansmith data` as a user types it: summaries, exit codes, one message per mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from pictures import folder
from PIL import Image

from gansmith.cli import main
from gansmith.cli.data import data
from gansmith.data.shards import open_prepared


@pytest.fixture
def gansmith(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """gansmith("data", "inspect", …) → exit code, stdout, stderr of the program."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gansmith", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as ending:
            code = int(ending.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder(tmp_path / "photos", {"cat": 6, "dog": 5})


def test_prepare_prints_a_summary_and_the_next_command(gansmith, tmp_path, photos):
    (photos / "cat" / "x.png").write_text("x")
    code, out, err = gansmith("data", "prepare", photos, tmp_path / "out", "--resolution", 32)
    assert (code, err) == (0, "")
    assert "prepared 11 images of 2 classes, 32×32×3 in" in out
    assert f"rejected               1, listed in {tmp_path}/out/rejected.csv" in out
    assert "duplicates             0" in out
    assert open_prepared(tmp_path / "out").content_hash in out
    assert (
        out.splitlines()[-1]
        == f"next: gansmith train --data {tmp_path}/out --preset cifar10 --out runs/first"
    )
    code, out, _ = gansmith("data", "prepare", photos, tmp_path / "out", "--resolution", 32)
    assert code == 0
    assert "is prepared already: 11 images of 2 classes" in out


def test_every_flag_reaches_the_settings(tmp_path, photos):
    (tmp_path / "m.yaml").write_text("kitty: [cat]")
    flags = (
        "--resolution 16 --crop top --resize box --channels 1 --min-size 20 --min-images 2 --max-images 9 "
        f"--top-classes 3 --merge {tmp_path}/m.yaml --keep-duplicates --storage png "
        "--max-rejected 0.5 --workers 1 --quiet"
    ).split()
    result = CliRunner().invoke(data, ["prepare", str(photos), str(tmp_path / "out"), *flags])
    assert result.exception is None, result.exception
    settings = open_prepared(tmp_path / "out").settings
    settings.pop("source_fingerprint")
    assert settings == {
        "resolution": 16,
        "crop": "top",
        "resize": "box",
        "channels": 1,
        "min_size": 20,
        "min_images": 2,
        "max_images": 9,
        "top_classes": 3,
        "merge": {"kitty": ["cat"]},
        "dedup": False,
        "storage": "png",
        "unconditional": False,
    }


def test_dry_run_says_what_would_be_written(gansmith, tmp_path, photos):
    code, out, _ = gansmith("data", "prepare", photos, tmp_path / "out", "--resolution", 64, "--dry-run")
    assert code == 0
    assert "dry run: 11 images of 2 classes, 64×64×3 would be written" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prepare nowhere out --resolution 32", "error: nowhere does not exist"),
        ("prepare photos out", "error: --resolution is needed"),
        ("prepare photos out --resolution 32 --storage gif", "--storage gif is unknown; choose raw"),
        ("prepare photos out --resolution 32 --workers 0", "--workers 0 must be 1 or more"),
        ("prepare photos out --resolution 32 --crop left", "Invalid value for '--crop'"),
        ("prepare photos out --resolution 32 --merge m --unconditional", "--merge joins classes"),
        ("prepare photos photos --resolution 32", "inside the source"),
        ("prepare photos/cat out --resolution 32", "no classes"),
        ("inspect nowhere", "error: nowhere does not exist"),
        ("inspect photos --out sheet.jpg", "must end in .png"),
        ("inspect photos --out no/such/folder/sheet.png", "folder that exists"),
    ],
)
def test_mistakes_give_one_message_and_exit_code_2(gansmith, tmp_path, photos, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = gansmith("data", *words.split())
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_inspect_prints_text_json_and_a_sheet(tmp_path, photos):
    runner = CliRunner()
    sheet = tmp_path / "sheet.png"
    result = runner.invoke(data, ["inspect", str(photos), "--out", str(sheet)])
    assert result.exit_code == 0, result.exception
    assert "images       11" in result.stdout
    assert f"contact sheet: {sheet} (2 of 2 classes)" in result.stdout
    width, height = Image.open(sheet).size
    assert height == 2 * 64 + 2
    assert width > 10 * 64
    again = runner.invoke(data, ["inspect", str(photos), "--out", str(sheet)])
    assert (
        str(again.exception)
        == f"--out {sheet} exists and is never overwritten; give another name or delete it."
    )
    result = runner.invoke(data, ["inspect", str(photos), "--json"])
    record = json.loads(result.stdout)
    assert record["classes"] == [["cat", 6], ["dog", 5]]
    assert record["sizes"] == [[40, 40, 11]]


def test_the_data_verbs_do_not_import_torch():
    code = "import sys, gansmith.cli.data, gansmith.data.parts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
