"""Protocol Buffers' wire format, as far as reading TensorFlow's files needs it: fields without a schema.

Knows no message types: those who call it know the numbers of the fields they want.
"""

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Message = bytes | memoryview


def varint(data: Message, at: int) -> tuple[int, int]:
    """(value, position after it) of the unsigned varint at `at`. Raises ValueError where it is cut short."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is cut short or too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(message: Message) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) in file order: int for numbers, memoryview for strings and sub-messages; fixed32
    and fixed64 as unsigned integers.

    Raises ValueError for anything that is not a well-formed message.
    """
    data, at = memoryview(message), 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        value: int | memoryview
        if kind == VARINT:
            value, at = varint(data, at)
        elif kind == BYTES:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
            piece, at = data[at : at + size], at + size
            value = int.from_bytes(piece, "little")
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(data):
            raise ValueError("a field is cut short")
        yield number, value


def integer(value: int | memoryview) -> int:
    """A field's value as a signed 64-bit number. Raises ValueError for a string."""
    if not isinstance(value, int):
        raise ValueError("a number was expected")
    return value - (1 << 64) if value >= 1 << 63 else value


def content(value: int | memoryview) -> memoryview:
    """A field's value as bytes. Raises ValueError for a number."""
    if isinstance(value, int):
        raise ValueError("a string or message was expected")
    return value


def text(value: int | memoryview) -> str:
    """A field's value as text. Raises ValueError where it is none."""
    return bytes(content(value)).decode("utf-8")


def numbers(value: int | memoryview, code: str) -> list[float | int]:
    """The numbers of a repeated field, whether packed (a string) or single. code: their `struct` letter, or
    "v" for varints.
    """
    if isinstance(value, int):
        if code == "v":
            return [integer(value)]
        return list(struct.unpack(f"<{code}", value.to_bytes(struct.calcsize(code), "little")))
    if code == "v":
        found: list[float | int] = []
        at = 0
        while at < len(value):
            number, at = varint(value, at)
            found.append(integer(number))
        return found
    size = struct.calcsize(code)
    if len(value) % size:
        raise ValueError("packed numbers are cut short")
    return list(struct.unpack(f"<{len(value) // size}{code}", value))
