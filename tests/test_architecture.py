"""The house rules a machine can check: who may import whom, how long a file may be, what is never used."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "gansmith"
TESTS = Path(__file__).resolve().parent
MODULES = sorted(SOURCE.rglob("*.py"))

# room → the rooms it may import, besides itself and errors. Rooms absent here may import nothing of ours.
MAY_IMPORT = {
    "models": set(),
    "data": {"files"},
    "config": {"models"},
    "weights": {"models", "files"},
    "sampling": {"models", "weights", "files", "hardware"},
    "environment": {"hardware", "training", "data"},  # asks what they would choose here, when it is called
    "evaluation": {"data", "models", "weights", "sampling", "files", "hardware"},
    "training": {
        "data",
        "models",
        "config",
        "weights",
        "sampling",
        "evaluation",
        "environment",
        "guard",
        "files",
        "hardware",
    },
    "planning": {"models", "config", "hardware", "environment", "training"},  # counts, and times on request
    "report": {"files"},  # reads what runs wrote: neither torch nor training
    "cli": {
        "guard",
        "data",
        "models",
        "config",
        "weights",
        "sampling",
        "evaluation",
        "environment",
        "training",
        "planning",
        "report",
        "files",
        "hardware",
    },
    "__main__": {"cli"},
}
# third-party packages a room may import; other rooms are free within the declared dependencies
MAY_USE = {
    "models": {"torch"},
    "config": {"pydantic", "pydantic_core", "yaml"},
    "errors": set(),
    "guard": set(),
    "hardware": {"torch"},
}
# They need torchvision (breaks beside a CPU torch), mis-synchronise, are huge, or cannot resume exactly.
NEVER = {
    "torchvision", "timm", "cleanfid", "torch_fidelity", "lpips", "accelerate", "streaming", "webdataset",
}  # fmt: skip


def room_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def walk(node: ast.AST, into_functions: bool = True) -> Iterator[ast.AST]:
    """All nodes that run, leaving out `if TYPE_CHECKING:` and on request the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if not into_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from walk(child, into_functions)


def imports(path: Path, into_functions: bool = True) -> set[str]:
    """Dotted names of everything imported, e.g. {"torch", "gansmith.errors"}."""
    names = set()
    for node in walk(ast.parse(path.read_text()), into_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute in this package"
            module = node.module or ""
            # `from gansmith import errors` imports the room gansmith.errors, not the package alone.
            names |= {f"{module}.{a.name}" for a in node.names} if module == "gansmith" else {module}
    return names


def our_rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("gansmith.")}


def third_party(names: set[str]) -> set[str]:
    tops = {name.split(".")[0] for name in names}
    return {top for top in tops if top not in sys.stdlib_module_names and top != "gansmith"}


def test_rooms_import_in_one_direction() -> None:
    wrong = []
    for path in MODULES:
        room = room_of(path)
        allowed = MAY_IMPORT.get(room, set()) | {room, "errors"}
        for other in our_rooms(imports(path)) - allowed:
            if (SOURCE / other).is_dir() or (SOURCE / f"{other}.py").is_file():
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_the_command_line() -> None:
    guests = [p for p in MODULES if room_of(p) not in ("cli", "__main__") and "cli" in our_rooms(imports(p))]
    assert not guests


@pytest.mark.parametrize("room", sorted(MAY_USE))
def test_room_uses_only_its_packages(room: str) -> None:
    wrong = {
        f"{path.relative_to(SOURCE)}: {package}"
        for path in MODULES
        if room_of(path) == room
        for package in third_party(imports(path)) - MAY_USE[room]
    }
    assert not wrong


def test_data_needs_torch_only_to_feed() -> None:
    users = {
        path.name for path in MODULES if room_of(path) == "data" and "torch" in third_party(imports(path))
    }
    assert users <= {"feed.py"}


def test_config_imports_models_only_when_it_validates_them() -> None:
    early = {p.name for p in MODULES if room_of(p) == "config" and "models" in our_rooms(imports(p, False))}
    assert not early


def test_command_line_imports_torch_only_inside_verbs() -> None:
    """`gansmith VERB --help` stays quick: no verb module pulls torch in at its top."""
    heavy = {"models", "weights", "sampling", "evaluation", "training", "hardware"}
    early = {
        path.name
        for path in MODULES
        if room_of(path) in ("cli", "config", "__init__", "__main__", "errors")
        for names in [imports(path, into_functions=False)]
        if "torch" in third_party(names) or our_rooms(names) & heavy
    }
    assert not early


def test_unwelcome_packages_are_absent() -> None:
    found = {f"{path.name}: {name}" for path in MODULES for name in third_party(imports(path)) & NEVER}
    assert not found


def test_what_only_cuda_has_is_asked_in_one_file() -> None:
    users = set()
    for path in MODULES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            named = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if named in ("torch.cuda", "torch.backends.cuda", "torch.backends.cudnn"):
                users.add(str(path.relative_to(SOURCE)))
        if any(name.startswith("torch.cuda") for name in imports(path)):
            users.add(str(path.relative_to(SOURCE)))
    assert users <= {"hardware.py"}


def test_nothing_is_loaded_by_executing_pickled_code() -> None:
    unsafe = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if name == "torch.load" and keywords.get("weights_only") != "True":
                unsafe.append(f"{path.name}:{node.lineno} torch.load without weights_only=True")
            # data/parts.py: a pipe from the process that started it, no file.
            if name in ("pickle.load", "pickle.loads") and path.name != "parts.py":
                unsafe.append(f"{path.name}:{node.lineno} {name}")
            if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
                unsafe.append(f"{path.name}:{node.lineno} {name} with allow_pickle")
    assert not unsafe


def test_a_file_of_more_than_400_lines_is_two_rooms() -> None:
    long = {
        f"{path.name}: {lines}"
        for folder in (SOURCE, TESTS)
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    silent = [p.relative_to(SOURCE) for p in MODULES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent
