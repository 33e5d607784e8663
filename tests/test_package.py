"""The package from outside: quick help, public names, exit codes, `gansmith env`, pinned versions, make."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gansmith
from gansmith import environment
from gansmith.cli import VERBS


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gansmith", *arguments], capture_output=True, text=True, timeout=120
    )


HEAVY = ("torch", "numpy", "PIL", "datasets", "pydantic", "gansmith.training", "gansmith.models")


def test_help_imports_nothing_heavy() -> None:
    """What makes `gansmith --help` answer in under half a second; a timing would depend on the machine."""
    result = python(
        "import sys; from gansmith.cli import gansmith_command as g\n"
        "g(['--help'], standalone_mode=False)\n"
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules])"
    )
    assert result.stdout.endswith("heavy: []\n"), result.stdout + result.stderr
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", result.stdout, re.MULTILINE), verb


def test_importing_the_package_imports_nothing_heavy() -> None:
    result = python(f"import sys, gansmith; print([m for m in {HEAVY} if m in sys.modules])")
    assert result.stdout == "[]\n", result.stderr


def test_public_names_are_listed_and_others_refused() -> None:
    assert set(gansmith.__all__) == {"evaluate", "load", "open_dataset", "train"}
    with pytest.raises(AttributeError, match="it has evaluate, load, open_dataset, train"):
        _ = gansmith.sampel


def test_version_is_told_once() -> None:
    assert importlib.metadata.version("gansmith") == gansmith.__version__
    assert run("--version").stdout == f"gansmith, version {gansmith.__version__}\n"


@pytest.mark.parametrize("arguments", [["trian"], ["env", "--jsom"], ["--verbose"]])
def test_unknown_verbs_and_flags_exit_with_2_and_no_traceback(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert arguments[-1] in result.stderr
    assert "Traceback" not in result.stderr


def test_env_tells_what_a_bug_report_needs() -> None:
    result = run("env", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["gansmith"] == gansmith.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["torch"] == importlib.metadata.version("torch")
    assert facts["cpu"]["threads"] == int(os.environ["OMP_NUM_THREADS"])
    assert 0 < facts["cpu"]["usable_cores"] <= facts["cpu"]["cores"]
    assert facts["precision"] in ("bf16", "fp16", "fp32")
    assert facts["precision_reason"]
    assert "dev" not in facts["extras"]


def test_env_names_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = ['h5py>=3.10; extra == "hdf5"', 'surely-missing>=1; extra == "remote"', "numpy>=1.26"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    facts = environment.collect()
    assert facts["extras"] == {
        "hdf5": {"h5py": importlib.metadata.version("h5py")},
        "remote": {"surely-missing": None},
    }
    assert re.search(r"^extra remote +surely-missing missing$", environment.as_text(facts), re.MULTILINE)


def test_constraints_pin_every_declared_package_exactly(repository: Path) -> None:
    """All of `pip install -e .[dev]` is pinned, and by version alone: no address, no path of one machine."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    in_dev = ["digits", "hdf5", "hub", "tensorboard", "plots", "features", "dinov2", "onnx"]
    assert f"gansmith[{','.join(in_dev)}]" in extras["dev"]
    declared = project["dependencies"] + extras["dev"] + [name for extra in in_dev for name in extras[extra]]
    names = {re.match(r"[\w-]+", name)[0].lower().replace("_", "-") for name in declared} - {"gansmith"}  # type: ignore[index]
    assert names <= pinned, names - pinned


def test_make_says_what_is_missing(repository: Path, tmp_path: Path) -> None:
    """No Python, an old one, or one without venv: make stops before anything is made and says what to do."""
    old = tmp_path / "python-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1" && exit 0\nexit 1\n')
    bare = tmp_path / "python-bare"
    bare.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexit 0\n')
    old.chmod(0o755)
    bare.chmod(0o755)
    for program, message in (
        (tmp_path / "absent", "is not installed; gansmith needs Python 3.11 or newer"),
        (old, "Python 3.8.1 is too old; gansmith needs Python 3.11 or newer"),
        (bare, "lacks its venv module"),
    ):
        venv = tmp_path / "venv"
        result = subprocess.run(
            ["make", "-C", str(repository), "check", f"PYTHON={program}", f"VENV={venv}"],
            capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert result.returncode == 2
        assert message in result.stderr
        assert not venv.exists()
