"""README and docs say what is true: commands parse, settings exist, links lead somewhere, tables match."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml

from gansmith import config as configuration
from gansmith.cli import gansmith_command

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PRESETS = configuration.preset_names()


def blocks(page: Path, language: str) -> Iterator[str]:
    fenced = page.read_text().split("\n```")[1:]  # opening, closing, opening, …
    for opened in fenced[::2]:
        first, _, text = opened.partition("\n")
        if re.fullmatch(language, first):
            yield text + "\n"


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) of every line in a ```sh block, continuation lines joined."""
    return [
        (page.name, line)
        for page in PAGES
        for block in blocks(page, "(?:sh|bash|console)")
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]


def gansmith_arguments(line: str) -> list[str] | None:
    """What follows `gansmith` in a shell line, torchrun in front or not; None for other programs."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[:1] == ["torchrun"]:
        words = words[words.index("gansmith") :]
    if words[:1] and words[0].rsplit("/", 1)[-1] == "gansmith":
        return words[1:]
    return None


COMMANDS = [(page, line) for page, line in shell_lines() if gansmith_arguments(line) is not None]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line}" for page, line in COMMANDS])
def test_command_parses(page: str, line: str) -> None:
    """Verb, flags and values are accepted by the very parser; settings of `train` are validated too."""
    arguments = gansmith_arguments(line)
    assert arguments is not None
    command: click.Command = gansmith_command
    context = click.Context(command, info_name="gansmith")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{page}: {line}: no verb {name}"
        command = found
    try:
        parsed = command.make_context(command.name, arguments, parent=context)
    except click.exceptions.Exit:  # --help, --list-settings
        return
    values = parsed.params
    if command.name == "train":
        named = {"batch", "duration", "seed", "precision", "micro_batch"}
        overrides = {f"train.{k}": v for k, v in values.items() if k in named and v is not None}
        overrides |= configuration.parse_overrides(values["assignments"])
        overrides |= {"init.source": values["init_from"]} if values["init_from"] else {}
        configuration.load(values["preset"], overrides=overrides)


def test_there_are_commands_to_check() -> None:
    verbs = {(gansmith_arguments(line) or [""])[0] for _, line in COMMANDS}
    assert {"train", "sample", "data", "info", "env"} <= verbs


def test_other_commands_of_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for page, line in shell_lines():
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            assert set(words[1:]) <= targets, f"{page}: {line}"
        if words[0] == "python" and words[1].endswith(".py"):
            assert (REPOSITORY / words[1]).is_file(), f"{page}: {line}"


def test_settings_named_in_the_docs_exist() -> None:
    known = set(configuration.fields())
    sections = {path.split(".")[0] for path in known}
    for page in PAGES:
        for name in re.findall(r"`((?:\w+)\.(?:\w+))(?:[=:][^`]*)?`", page.read_text()):
            if name.split(".")[0] in sections and not name.endswith((".txt", ".md", ".py", ".yaml")):
                assert name in known, f"{page.name}: {name}"


def test_configurations_in_the_docs_are_valid(tmp_path: Path) -> None:
    """Blocks that set settings; other YAML, such as a class-merge file, is its own page's business."""
    sections = {path.split(".")[0] for path in configuration.fields()}
    found = [
        (page, text)
        for page in PAGES
        for text in blocks(page, "yaml")
        if set(yaml.safe_load(text)) & sections
    ]
    assert found
    for page, text in found:
        file = tmp_path / page.with_suffix(".yaml").name
        file.write_text(text)
        configuration.load(file=file)


def test_python_of_the_docs_is_valid() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            compile(block, page.name, "exec")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text()
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_file_tree_of_the_readme_is_the_tree() -> None:
    """Every path in the annotated tree exists, in at most eight words, and every room is in it."""
    tree = next(blocks(REPOSITORY / "README.md", ""))
    folders: list[str] = []
    named = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        path, _, description = line.strip().partition(" ")
        folders[depth:] = [path]
        named.add("".join(folders))
        assert (REPOSITORY / "".join(folders)).exists(), line
        assert len(description.split()) <= 8, line
    rooms = {
        f"src/gansmith/{p.name}/" if p.is_dir() else f"src/gansmith/{p.name}"
        for p in (REPOSITORY / "src" / "gansmith").iterdir()
        if p.name not in ("__pycache__", "__main__.py")
    }
    assert rooms <= named, rooms - named


def preset_row(name: str) -> str:
    config, _ = configuration.load(name)
    model, optim, train = config.model, config.optim, config.train
    attention = ", ".join(
        "–" if not a else ", ".join(map(str, a)) for a in (model.attention_g, model.attention_d)
    )
    return (
        f"| {name} | {model.resolution} | {model.family} | {model.ch} | {model.dim_z} | {attention} "
        f"| {train.batch} | {config.bn.group} | {optim.lr_g:g}, {optim.lr_d:g} "
        f"| {optim.d_steps} | {train.duration} |"
    )


@pytest.mark.parametrize("name", PRESETS)
def test_table_of_recipes_matches_the_files(name: str) -> None:
    assert preset_row(name) in (REPOSITORY / "docs" / "presets.md").read_text()


@pytest.fixture(scope="module")
def memory_benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory", REPOSITORY / "benchmarks" / "memory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cifar10", "biggan-128"])
def test_table_of_memory_matches_the_networks(name: str, memory_benchmark: ModuleType) -> None:
    """No underestimate, and no more than a quarter above what is counted now."""
    rows = (REPOSITORY / "docs" / "memory.md").read_text().splitlines()
    row = next(row for row in rows if row.startswith(f"| {name} |"))
    g, d, fixed, image, group, total = (float(cell) for cell in re.split(r"[|,]", row)[2:8])
    measured = memory_benchmark.measure(name, 1000)
    assert (g, d, fixed) == pytest.approx(measured[:3], rel=0.02)
    assert 0.99 * measured[3] <= image <= 1.25 * measured[3]
    assert group == measured[4]
    assert total == pytest.approx(fixed + group * image / 1024, abs=0.06)


def test_benchmarks_say_how_they_are_run() -> None:
    for path in sorted((REPOSITORY / "benchmarks").glob("*.py")):
        if "__main__" not in path.read_text():
            continue  # what a benchmark compares with
        result = subprocess.run(
            [sys.executable, str(path), "--help"], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        assert "usage" in result.stdout.lower()


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        ("logistic", ["loss.objective=logistic:loss"]),
        ("bigvae", ["loss.objective=bigvae:elbo", "model.discriminator=bigvae:Encoder"]),
    ],
)
def test_own_objective_of_the_docs_trains(module: str, settings: list[str], tmp_path: Path) -> None:
    """The page's code as a user would run it: its module in the current folder, named on the command line."""
    code = next(b for b in blocks(REPOSITORY / "docs" / "objectives.md", "python") if f"# {module}.py" in b)
    (tmp_path / f"{module}.py").write_text(code)
    small = ["model.ch=4", "log.statistics_images=64", "log.grid_columns=1", "log.status_every=128"]
    flags = [word for setting in (*settings, *small) for word in ("--set", setting)]
    command = ["train", "--data", "builtin:digits", "--preset", "digits", "--duration", "512", "--out", "run"]
    result = subprocess.run(
        [sys.executable, "-m", "gansmith", *command, *flags],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss_d"] for row in rows if "loss_d" in row]
    assert len(losses) == 4
    assert all(0 < loss < 100 for loss in losses)
