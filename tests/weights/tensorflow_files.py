"""Writes what TensorFlow writes, as far as the readers' tests need it: checkpoints and graphs.

Independent of the readers: its own varints, its own bitwise CRC-32C, its own block writer.
"""

import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10,
    "float16": 19,
}  # fmt: skip


@cache
def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def slow_crc32c(data: bytes) -> int:
    """One table look-up per byte, from the definition."""
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked_crc(data: bytes) -> int:
    crc = slow_crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """A varint field for an int, else a length-delimited one."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def shape_proto(shape: tuple[int, ...]) -> bytes:
    return b"".join(field(2, field(1, size) if size else b"") for size in shape)


def block(entries: list[tuple[bytes, bytes]], restart_every: int = 16) -> bytes:
    """A LevelDB block with its trailer."""
    out, restarts, before = bytearray(), [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_every:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        else:
            restarts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    for restart in restarts or [0]:
        out += struct.pack("<I", restart)
    out += struct.pack("<I", max(len(restarts), 1))
    return bytes(out) + b"\0" + struct.pack("<I", masked_crc(bytes(out) + b"\0"))


def table(entries: list[tuple[bytes, bytes]], per_block: int = 40) -> bytes:
    """A sorted string table of several blocks."""
    out, index = b"", []
    for first in range(0, len(entries), per_block):
        part = entries[first : first + per_block]
        written = block(part)
        index.append((part[-1][0], varint(len(out)) + varint(len(written) - 5)))
        out += written
    handles = b""
    for inner in (block([]), block(index, 1)):
        handles += varint(len(out)) + varint(len(inner) - 5)
        out += inner
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(
    prefix: Path,
    arrays: dict[str, np.ndarray],
    *,
    shards: int = 1,
    per_block: int = 40,
    header: bytes = b"",
    bfloat16: tuple[str, ...] = (),
    extra: dict[str, bytes] | None = None,
) -> None:
    """PREFIX.index and PREFIX.data-…: variables go to the shards in turn. bfloat16: variables written as such
    (cut to 16 bits). extra: further entries, as they shall lie in the index.
    """
    data = [bytearray() for _ in range(shards)]
    entries = {"": field(1, shards) + field(3, field(1, 1)) + header}
    for i, (name, array) in enumerate(sorted(arrays.items())):
        raw, dtype = np.ascontiguousarray(array).tobytes(), DTYPES[array.dtype.name]
        if name in bfloat16:
            raw, dtype = (array.view(np.uint32) >> 16).astype(np.uint16).tobytes(), 14
        shard = data[i % shards]
        entries[name] = (
            field(1, dtype)
            + field(2, shape_proto(array.shape))
            + (field(3, i % shards) if i % shards else b"")
            + (field(4, len(shard)) if shard else b"")
            + field(5, len(raw))
            + bytes([6 << 3 | 5])
            + struct.pack("<I", masked_crc(raw))
        )
        shard += raw
    prefix.parent.mkdir(parents=True, exist_ok=True)
    rows = sorted((key.encode(), value) for key, value in (entries | (extra or {})).items())
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(rows, per_block))
    for i, shard in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(shard)


def node(
    name: str, op: str, inputs: tuple[str, ...] = (), value: np.ndarray | None = None, **how: Any
) -> bytes:
    """A NodeDef. value: of a Const, float32; listed=True writes it number by number instead of as bytes."""
    attributes = b""
    if value is not None:
        tensor = field(1, 1) + field(2, shape_proto(value.shape))
        raw = np.ascontiguousarray(value, np.float32).tobytes()
        tensor += field(5 if how.get("listed") else 4, raw)
        attributes = field(5, field(1, "value") + field(2, field(8, tensor)))
        attributes += field(5, field(1, "dtype") + field(2, field(6, 1)))
    return field(1, name) + field(2, op) + b"".join(field(3, i) for i in inputs) + attributes


def saved_model(nodes: list[bytes]) -> bytes:
    """A SavedModel with one graph."""
    graph = b"".join(field(1, n) for n in nodes) + field(4, field(1, 27))
    return field(1, 1) + field(2, field(1, field(4, "train")) + field(2, graph))
