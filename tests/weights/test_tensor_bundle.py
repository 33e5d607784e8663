"""TensorFlow's checkpoints: every type, shard and block is read, and nothing damaged or foreign is taken for
one.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from tensorflow_files import block, field, slow_crc32c, table, write_bundle

from gansmith.errors import UserError
from gansmith.weights import crc32c, tensor_bundle, wire

TYPES = ("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "bool")


def some_arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {f"of_{t}/w": (random.standard_normal((3, 4, 2)) * 50).astype(t) for t in TYPES}
    arrays |= {f"layer_{i:03d}/kernel": random.standard_normal((i % 5, 7)).astype("f4") for i in range(90)}
    return arrays | {"scalar": np.array(7, "i8"), "long": random.standard_normal(40_000).astype("f4")}


@pytest.mark.parametrize(("data", "crc"), [(b"123456789", 0xE3069283), (b"", 0), (bytes(32), 0x8A9136AA)])
def test_the_checksum_is_that_of_the_standard(data: bytes, crc: int) -> None:
    """Check values of CRC-32C: the usual one and RFC 3720's, appendix B.4."""
    assert crc32c.crc32c(data) == slow_crc32c(data) == crc


def test_the_checksum_is_right_at_every_length_and_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(1).bytes(70_000)
    for length in [*range(70), 255, 256, 1023, 4097, 70_000]:
        assert crc32c.crc32c(data[:length]) == slow_crc32c(data[:length]), length
    monkeypatch.setattr(crc32c, "CHUNK", 1 << 12)
    assert crc32c.crc32c(data) == slow_crc32c(data)


@pytest.mark.parametrize(("shards", "per_block"), [(1, 1000), (1, 7), (3, 40)])
def test_every_variable_comes_back_as_it_was_written(tmp_path: Path, shards: int, per_block: int) -> None:
    arrays = some_arrays()
    write_bundle(tmp_path / "model.ckpt-7", arrays, shards=shards, per_block=per_block)
    bundle = tensor_bundle.open_bundle(tmp_path / "model.ckpt-7")
    assert bundle.entries.keys() == arrays.keys()
    for name, array in arrays.items():
        found = bundle.read(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_bfloat16_is_read_as_the_float32_it_abbreviates(tmp_path: Path) -> None:
    array = np.array([1.0, -2.5, 3.14159, 1e-20], np.float32)
    write_bundle(tmp_path / "m", {"w": array}, bfloat16=("w",))
    found = tensor_bundle.open_bundle(tmp_path / "m").read("w")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, array, rtol=2**-7)
    assert found[0] == 1
    assert found[1] == -2.5


def test_the_golden_checkpoint_is_read_whole(shared_dir: Path) -> None:
    prefix = tensor_bundle.find(shared_dir / "golden" / "tfhub-biggan-128")
    assert prefix is not None
    bundle = tensor_bundle.open_bundle(prefix)
    assert bundle.read("linear/w/ema_b999900").shape == (20, 128)
    assert all(np.isfinite(bundle.read(name)).all() for name in bundle.entries)


def test_a_checkpoint_is_found_by_any_of_its_names(tmp_path: Path) -> None:
    prefix = tmp_path / "module" / "variables" / "variables"
    write_bundle(prefix, {"w": np.zeros(2, "f4")})
    names = [prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001", prefix.parent, tmp_path / "module"]
    assert {tensor_bundle.find(Path(name)) for name in names} == {prefix}
    assert tensor_bundle.find(tmp_path) is None
    assert tensor_bundle.find(tmp_path / "nothing") is None


def test_of_several_checkpoints_the_folder_says_which_is_newest_or_the_user_must(tmp_path: Path) -> None:
    for step in (9, 10):
        write_bundle(tmp_path / f"model.ckpt-{step}", {"w": np.zeros(2, "f4")})
    with pytest.raises(UserError, match=r"holds 2 checkpoints \(model\.ckpt-10, model\.ckpt-9\); name one"):
        tensor_bundle.find(tmp_path)
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/elsewhere/model.ckpt-10"\nall_model_checkpoint_paths: "model.ckpt-9"\n'
    )
    assert tensor_bundle.find(tmp_path) == tmp_path / "model.ckpt-10"


def damage(path: Path, at: int, value: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[at] = data[at] ^ 0x10 if value is None else value
    path.write_bytes(data)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """Each byte of the index in turn, and each of the data: refused, or a byte that nobody reads."""
    arrays = {"a/w": np.arange(6, dtype="f4"), "b": np.array(3, "i4")}
    write_bundle(tmp_path / "m", arrays)
    index, data = tmp_path / "m.index", tmp_path / "m.data-00000-of-00001"
    whole = index.read_bytes()
    unread = []
    for at in range(len(whole)):
        damage(index, at)
        try:
            assert tensor_bundle.open_bundle(tmp_path / "m").entries.keys() == arrays.keys()
            unread.append(at)
        except UserError:
            pass
        index.write_bytes(whole)
    # the empty meta-index block (13 bytes), its handle and the footer's padding
    assert len(unread) <= 13 + 40
    assert all(at >= whole.find(bytes(4) + b"\1\0\0\0") for at in unread)
    for at in range(len(data.read_bytes())):
        damage(data, at)
        bundle = tensor_bundle.open_bundle(tmp_path / "m")
        with pytest.raises(UserError, match="another checksum than was written; download it again"):
            [bundle.read(name) for name in arrays]
        damage(data, at)


def test_files_cut_short_are_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "m", some_arrays(), shards=2)
    index, data = tmp_path / "m.index", tmp_path / "m.data-00001-of-00002"
    bundle = tensor_bundle.open_bundle(tmp_path / "m")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"m\.data-00001-of-00002 is cut short: variable .* the file at 100"):
        [bundle.read(name) for name in bundle.entries]
    data.unlink()
    bundle = tensor_bundle.open_bundle(tmp_path / "m")
    with pytest.raises(UserError, match=r"cannot be read .*its \.index file and all of its \.data files"):
        [bundle.read(name) for name in bundle.entries]
    for length in (0, 10, 47, 60, len(index.read_bytes()) - 1):
        index.write_bytes(index.read_bytes()[:length])
        with pytest.raises(
            UserError, match=r"m\.index is not a TensorFlow checkpoint index, or it is damaged"
        ):
            tensor_bundle.open_bundle(tmp_path / "m")


def test_what_is_not_read_is_refused_by_name(tmp_path: Path) -> None:
    arrays = {"w": np.zeros(2, "f4")}
    write_bundle(tmp_path / "m", arrays, header=field(2, 1))
    with pytest.raises(UserError, match="written big-endian, which is not read"):
        tensor_bundle.open_bundle(tmp_path / "m")
    write_bundle(tmp_path / "m", arrays, header=field(3, field(2, 5)))
    with pytest.raises(UserError, match="needs a reader of bundle version 5"):
        tensor_bundle.open_bundle(tmp_path / "m")
    part = field(1, 1) + field(2, field(2, field(1, 4))) + field(7, b"")
    write_bundle(tmp_path / "m", arrays, extra={"parted": part, "text": field(1, 7), "\0part": b""})
    bundle = tensor_bundle.open_bundle(tmp_path / "m")
    assert set(bundle.entries) == {"w", "parted", "text"}
    with pytest.raises(UserError, match="variable parted is stored in partitions, which is not read"):
        bundle.read("parted")
    with pytest.raises(UserError, match="variable text has TensorFlow type 7, not numbers"):
        bundle.read("text")
    compressed = bytearray(table([(b"", b"")]))
    (tmp_path / "m.index").write_bytes(compressed)
    assert tensor_bundle.open_bundle(tmp_path / "m").entries == {}
    (tmp_path / "old.ckpt").write_bytes(compressed)
    with pytest.raises(UserError, match=r"old single-file kind \(V1\); write it anew with .*write_version=2"):
        tensor_bundle.find(tmp_path / "old.ckpt")


def test_compressed_blocks_are_refused(tmp_path: Path) -> None:
    import struct

    from tensorflow_files import masked_crc

    whole = bytearray(table([(b"", field(1, 1)), (b"w", b"")]))
    size = len(block([(b"", field(1, 1)), (b"w", b"")])) - 5
    whole[size] = 1  # snappy
    whole[size + 1 : size + 5] = struct.pack("<I", masked_crc(bytes(whole[: size + 1])))
    (tmp_path / "m.index").write_bytes(whole)
    with pytest.raises(UserError, match="block at byte 0 is compressed"):
        tensor_bundle.open_bundle(tmp_path / "m")


def test_sizes_that_contradict_the_shape_are_refused(tmp_path: Path) -> None:
    entry = field(1, 1) + field(2, field(2, field(1, 100))) + field(5, 8)
    write_bundle(tmp_path / "m", {"w": np.zeros(2, "f4")}, extra={"v": entry, "u": field(1, 1) + field(3, 4)})
    with pytest.raises(UserError, match="variable u lies outside of its files"):
        tensor_bundle.open_bundle(tmp_path / "m")
    write_bundle(tmp_path / "m", {"w": np.zeros(2, "f4")}, extra={"v": entry})
    with pytest.raises(UserError, match=re.escape("variable v of shape (100,) takes 8 bytes there")):
        tensor_bundle.open_bundle(tmp_path / "m").read("v")


def test_a_malformed_message_is_an_error_and_never_an_endless_read() -> None:
    for message in (b"\x08", b"\x0a\x05ab", b"\x0b", b"\x00\x01", b"\xff" * 12, b"\x0d\x01"):
        with pytest.raises(ValueError, match=r"cut short|wire type|field number"):
            list(wire.fields(message))
    assert wire.integer(next(wire.fields(field(4, -5)))[1]) == -5
    assert wire.numbers(memoryview(b"\x01\x96\x01"), "v") == [1, 150]
