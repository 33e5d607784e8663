"""Pickled files are read, and nothing they hold is ever run: the hostile ones here would leave a mark."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gansmith.errors import UserError
from gansmith.weights import pickles

RECORD = {
    "itr": 138000,
    "best_IS": np.float64(97.25),
    "best_FID": torch.tensor(9.75),
    "save_num": np.int64(2),
    "curve": torch.zeros(3),
    "config": {
        "G_activation": torch.nn.ReLU(inplace=True), "hier": True, "betas": (0.0, 0.999),
        "o": OrderedDict(a=1),
    },
}  # fmt: skip


class Hostile:
    """Unpickled by Python it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_descriptions_are_read_as_data(tmp_path: Path, zipped: bool) -> None:
    torch.save(RECORD, tmp_path / "state_dict.pth", _use_new_zipfile_serialization=zipped)
    read = pickles.read_description(tmp_path / "state_dict.pth")
    activation = read["config"].pop("G_activation")
    assert isinstance(activation, pickles.Inert)
    assert repr(activation) == "<ReLU>"
    assert read == {
        "itr": 138000, "best_IS": 97.25, "best_FID": 9.75, "save_num": 2, "curve": None,
        "config": {"hier": True, "betas": [0.0, 0.999], "o": {"a": 1}},
    }  # fmt: skip


class _OfTorch1(pickle.Pickler):
    """torch before 1.6 noted the source code of every module's class beside its first instance."""

    noted = False

    def persistent_id(self, value: Any) -> Any:
        if value is torch.nn.ReLU and not self.noted:
            self.noted = True
            return ("module", value, "/usr/lib/activation.py", "class ReLU(Module): ...")
        return None


def test_descriptions_of_old_torch_with_source_code_are_read(tmp_path: Path) -> None:
    with (tmp_path / "state_dict.pth").open("wb") as file:
        for header in (pickles.LEGACY_MAGIC, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        _OfTorch1(file, protocol=2).dump({"itr": 5, "activation": torch.nn.ReLU()})
        pickle.dump([], file, protocol=2)
    read = pickles.read_description(tmp_path / "state_dict.pth")
    assert (read["itr"], repr(read["activation"])) == (5, "<ReLU>")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("read", [pickles.read_description, pickles.read_tensors])
def test_hostile_files_are_refused_and_run_nothing(tmp_path: Path, zipped: bool, read: Any) -> None:
    mark, file = tmp_path / "mark", tmp_path / "G.pth"
    torch.save({"weight": torch.ones(2), "x": Hostile(mark)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"the code posix\.system, .* refused and nothing of it was run"
    ) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert not mark.exists()
    torch.load(file, weights_only=False)  # the file is as hostile as it should be
    assert mark.exists()


@pytest.mark.parametrize(
    "reference",
    [b"cbuiltins\neval\n", b"cnumpy\nload\n", b"ctorch\nload\n", b"ctorch.hub\nload\n", b"cposix\nsystem\n",
     b"ctorch.nn.modules.container\nSequential\n", b"cbuiltins\ngetattr\n", b"c__builtin__\nexec\n"],
)  # fmt: skip
def test_no_name_outside_of_the_list_is_handed_out(tmp_path: Path, reference: bytes) -> None:
    header = b"".join(pickle.dumps(value, 2) for value in (pickles.LEGACY_MAGIC, 1001, {}))
    (tmp_path / "state_dict.pth").write_bytes(header + b"\x80\x02" + reference + b".")
    with pytest.raises(UserError, match="was refused and nothing of it was run"):
        pickles.read_description(tmp_path / "state_dict.pth")


class OfBuiltins:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1 + 1",)


def test_builtins_and_newer_pickles_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"x": OfBuiltins()}, tmp_path / "G.pth")
    with pytest.raises(UserError, match=r"the code eval, .* refused and nothing of it was run"):
        pickles.read_tensors(tmp_path / "G.pth")
    (tmp_path / "G.pth").write_bytes(pickle.dumps({"x": OfBuiltins()}, protocol=4))
    with pytest.raises(UserError, match=r"\(Unsupported operand \d+\); nothing of it was run"):
        pickles.read_tensors(tmp_path / "G.pth")


def test_lists_of_the_same_lists_take_no_time(tmp_path: Path) -> None:
    many: list[Any] = [1]
    for _ in range(60):  # 10^60 entries, written out
        many = [many] * 10
    torch.save({"itr": 5, "config": {"many": many}}, tmp_path / "state_dict.pth")
    assert pickles.read_description(tmp_path / "state_dict.pth")["itr"] == 5


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_cut_files_are_refused_with_one_message(tmp_path: Path, share: float, zipped: bool) -> None:
    file = tmp_path / "G.pth"
    state = {f"layer{i}.weight": torch.randn(40, 40) for i in range(4)}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"G\.pth (is cut short or damaged|is damaged)") as caught:
        pickles.read_tensors(file)
    assert "\n" not in str(caught.value)


def test_whole_networks_and_missing_files_have_their_messages(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(
        UserError, match=r"the code torch\.nn\.modules\.linear\.Linear, .*net\.state_dict\(\)"
    ):
        pickles.read_tensors(tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        pickles.read_tensors(tmp_path / "nowhere.pth")
