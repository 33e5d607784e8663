"""Reads TensorFlow checkpoints (the tensor-bundle format, "V2") without TensorFlow.

PREFIX.index is a sorted string table as LevelDB writes it: blocks of entries whose keys share prefixes, then
an index block, then a footer. Under the empty key it describes the bundle, under each variable's name where
its bytes lie in PREFIX.data-00000-of-0000N. Every block and every tensor carries a CRC-32C, and all of them
are checked. Nothing here is executed, and nothing here knows what the variables mean.

TensorFlow itself is half a gigabyte and its TF-Hub loader for these modules is gone; the format is small.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gansmith.errors import UserError
from gansmith.weights import crc32c, wire

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
TRAILER = 5  # compression type and checksum after every block
# DataType of TensorFlow → NumPy; bfloat16 is read as the float32 it abbreviates.
BFLOAT16, STRING = 14, 7
DTYPES = {
    1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 8: "<c8", 9: "<i8", 10: "?",
    BFLOAT16: "<u2", 17: "<u2", 19: "<f2", 22: "<u4", 23: "<u8",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Where one variable lies. dtype: TensorFlow's number; sliced: stored in parts under other keys."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool


@dataclass
class TensorBundle:
    """The variables of one checkpoint by name, read when asked for. Made by `open_bundle`."""

    prefix: Path
    entries: dict[str, Entry]
    num_shards: int
    _shards: dict[int, np.ndarray] = field(default_factory=dict)

    def read(self, name: str) -> np.ndarray:
        """A variable, checked against its checksum; read-only; bfloat16 comes as float32.

        Raises UserError for a type without numbers, a partitioned variable, and damaged or missing data.
        """
        entry = self.entries[name]
        if entry.sliced:
            raise UserError(
                f"{self.prefix}: variable {name} is stored in partitions, which is not read; save the "
                "checkpoint without a partitioner."
            )
        if entry.dtype not in DTYPES:
            raise UserError(
                f"{self.prefix}: variable {name} has TensorFlow type {entry.dtype}, not numbers of a known "
                "kind."
            )
        dtype = np.dtype(DTYPES[entry.dtype])
        count = int(np.prod(entry.shape, dtype=object))
        if entry.size != count * dtype.itemsize:
            raise UserError(
                f"{self.prefix}.index is damaged: variable {name} of shape {entry.shape} takes {entry.size} "
                "bytes there."
            )
        shard = self._shard(entry.shard)
        data = shard[entry.offset : entry.offset + entry.size]
        if len(data) != entry.size:
            raise UserError(
                f"{self._shard_path(entry.shard)} is cut short: variable {name} ends at byte "
                f"{entry.offset + entry.size:,}, the file at {len(shard):,}; download it again."
            )
        if crc32c.masked(data) != entry.crc:
            raise UserError(
                f"{self._shard_path(entry.shard)} is damaged: variable {name} has another checksum than was "
                "written; download it again."
            )
        values = np.frombuffer(data, dtype).reshape(entry.shape)
        if entry.dtype == BFLOAT16:
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values

    def _shard_path(self, shard: int) -> Path:
        name = f"{self.prefix.name}.data-{shard:05d}-of-{self.num_shards:05d}"
        return self.prefix.with_name(name)

    def _shard(self, shard: int) -> np.ndarray:
        if shard not in self._shards:
            path = self._shard_path(shard)
            try:
                empty = path.stat().st_size == 0
                data = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, mode="r")
            except OSError as error:
                raise UserError(
                    f"{path} cannot be read ({error.strerror or error}); a checkpoint is its .index file and "
                    "all of its .data files in one folder."
                ) from None
            self._shards[shard] = data
        return self._shards[shard]


def find(path: Path) -> Path | None:
    """The prefix of the checkpoint that a path stands for, or None where there is none.

    path: PREFIX.index, a PREFIX.data file, PREFIX itself, a folder that holds one checkpoint or a TensorFlow
    `checkpoint` file naming the newest, or a module with a `variables` folder. Raises UserError for a folder
    with several checkpoints, and for the single-file format before version 2.
    """
    name = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path.name)
    prefix = path.with_name(name)
    if prefix.with_name(f"{name}.index").is_file():
        return prefix
    if path.is_file():
        if _is_table(path):
            raise UserError(
                f"{path} is a TensorFlow checkpoint of the old single-file kind (V1); write it anew with "
                "tf.compat.v1.train.Saver(write_version=2)."
                if path.suffix != ".index"
                else f"{path} is not in order."
            )
        return None
    if not path.is_dir():
        return None
    found = sorted(file.with_name(file.name.removesuffix(".index")) for file in path.glob("*.index"))
    if len(found) == 1:
        return found[0]
    if found:
        if (newest := _named_by_state(path)) in found:
            return newest
        names = ", ".join(prefix.name for prefix in found[:6])
        raise UserError(f"{path} holds {len(found)} checkpoints ({names}); name one: {found[-1]}.index")
    return find(path / "variables") if (path / "variables").is_dir() else None


def _named_by_state(folder: Path) -> Path | None:
    """The prefix that a training folder's `checkpoint` file calls the newest."""
    try:
        state = (folder / "checkpoint").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    named = re.search(r'^model_checkpoint_path:\s*"([^"]+)"', state, re.MULTILINE)
    return folder / named[1].rpartition("/")[2] if named else None


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < FOOTER:
            return False
        file.seek(-8, 2)
        return int.from_bytes(file.read(8), "little") == MAGIC


def open_bundle(prefix: Path) -> TensorBundle:
    """Reads the index of the checkpoint PREFIX.index, PREFIX.data-….

    Raises UserError for an index that is no such table, damaged, cut short, compressed, big-endian or written
    by a newer format.
    """
    path = prefix.with_name(f"{prefix.name}.index")
    try:
        table = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        entries = list(_table(table))
        if not entries or entries[0][0] != b"":
            raise ValueError("it does not begin with the bundle's description")
        num_shards = _header(entries[0][1], path)
        found = {}
        for key, value in entries[1:]:
            if key.startswith(b"\0"):
                continue  # a part of a partitioned variable; the variable itself is marked
            found[key.decode("utf-8")] = _entry(value)
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path} is not a TensorFlow checkpoint index, or it is damaged: {error}; download it again."
        ) from None
    for name, entry in found.items():
        if (
            not 0 <= entry.shard < num_shards
            or entry.offset < 0
            or entry.size < 0
            or min(entry.shape, default=0) < 0
        ):
            raise UserError(f"{path} is damaged: variable {name} lies outside of its files.")
    return TensorBundle(prefix, found, num_shards)


def _table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of a sorted string table. Raises ValueError where it is malformed."""
    if len(table) < FOOTER:
        raise ValueError(f"it has {len(table)} bytes, less than its footer")
    footer = table[-FOOTER:]
    if int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("its last bytes are not the format's mark, so it is cut short or something else")
    at = 0
    handle = []
    for _ in range(4):  # offset and size of the meta-index, then of the index
        value, at = wire.varint(footer[:-8], at)
        handle.append(value)
    for _, block in _block(table, handle[2], handle[3]):
        offset, at = wire.varint(block, 0)
        size, _ = wire.varint(block, at)
        yield from _block(table, offset, size)


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of one block: each key shares a prefix with the one before it."""
    data, trailer = table[offset : offset + size], table[offset + size : offset + size + TRAILER]
    if len(trailer) != TRAILER:
        raise ValueError("a block lies outside of the file")
    if crc32c.masked(data + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise ValueError(f"the checksum of the block at byte {offset} differs")
    if trailer[0]:
        raise ValueError(f"the block at byte {offset} is compressed, which TensorFlow never does")
    restarts = int.from_bytes(data[-4:], "little")
    end = len(data) - 4 - 4 * restarts
    if end < 0:
        raise ValueError(f"the block at byte {offset} has more restarts than bytes")
    at, key = 0, b""
    while at < end:
        shared, at = wire.varint(data, at)
        added, at = wire.varint(data, at)
        length, at = wire.varint(data, at)
        if shared > len(key) or at + added + length > end:
            raise ValueError(f"an entry of the block at byte {offset} is malformed")
        key = key[:shared] + data[at : at + added]
        yield key, data[at + added : at + added + length]
        at += added + length


def _header(message: bytes, path: Path) -> int:
    """The number of shards. Raises UserError for a big-endian bundle."""
    num_shards, endianness, least_reader = 1, 0, 0
    for number, value in wire.fields(message):
        if number == 1:
            num_shards = wire.integer(value)
        elif number == 2:
            endianness = wire.integer(value)
        elif number == 3:
            least_reader = next((wire.integer(v) for n, v in wire.fields(wire.content(value)) if n == 2), 0)
    if endianness != 0:
        raise UserError(
            f"{path} was written big-endian, which is not read; save it on a little-endian machine."
        )
    if least_reader > 1:
        raise UserError(f"{path} needs a reader of bundle version {least_reader}; this one reads version 1.")
    return num_shards


def _entry(message: bytes) -> Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    sliced = False
    for number, value in wire.fields(message):
        if number in numbers:
            numbers[number] = wire.integer(value)
        elif number == 2:
            shape = tensor_shape(wire.content(value))
        elif number == 7:
            sliced = True
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6], sliced)


def tensor_shape(message: wire.Message) -> tuple[int, ...]:
    """The sizes in a TensorShapeProto; −1 is unknown."""
    return tuple(
        next((wire.integer(v) for n, v in wire.fields(wire.content(dim)) if n == 1), 0)
        for number, dim in wire.fields(message)
        if number == 2
    )
