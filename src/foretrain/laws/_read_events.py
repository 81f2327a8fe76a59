"""Read the scalars of TensorBoard event files, without TensorBoard.

An event file is a row of records: length (8 bytes, little endian), a masked CRC-32C of it (4), the data, a masked CRC-32C of the data (4).
The data are a protocol-buffer message `Event`: 2 step, 5 summary; a summary is a row of values: 1 tag, 2 simple value, 8 tensor.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from foretrain.errors import InvalidInput

_LARGEST_SCALAR = 4096  # bytes of a record that can hold scalars only; pictures and histograms are larger
_LARGEST_RECORD = 1 << 31
_POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
_MASK = 0xA282EAD8


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """The CRC-32C of TFRecord files: rotated and shifted, so that a checksum of checksums is no special case.

    Example:
        >>> hex(masked_crc(b"123456789"))  # CRC-32C of this is 0xe3069283
        '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def read_scalars(path: Path) -> tuple[list[tuple[str, int, float]], bool]:
    """Tag, step and value of every scalar of an event file, and whether its last record is cut off, as in a run that goes on.

    Raises:
        InvalidInput: A checksum is wrong, or the file holds something else.
    """
    found: list[tuple[str, int, float]] = []
    with path.open("rb") as file:
        position = 0
        while header := file.read(12):
            if len(header) < 12:
                return found, True
            (length,), (crc,) = struct.unpack("<Q", header[:8]), struct.unpack("<I", header[8:])
            if masked_crc(header[:8]) != crc or length > _LARGEST_RECORD:
                raise _damaged(path, position)
            if length > _LARGEST_SCALAR:
                end = position + 16 + length
                if end > path.stat().st_size:
                    return found, True
                file.seek(end)
            else:
                body = file.read(length + 4)
                if len(body) < length + 4:
                    return found, True
                if masked_crc(body[:length]) != struct.unpack("<I", body[length:])[0]:
                    raise _damaged(path, position)
                try:
                    found += _event(body[:length])
                except (IndexError, ValueError, struct.error):
                    raise _damaged(path, position) from None
            position += 16 + length
    return found, False


def _damaged(path: Path, position: int) -> InvalidInput:
    return InvalidInput(
        f"read_runs: {path}: the record at byte {position} is damaged, or this is no event file of TensorBoard. "
        "Move the file away to read the others."
    )


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """Field number, wire type and content of each field of a protocol-buffer message."""
    i = 0
    while i < len(message):
        key, i = _varint(message, i)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, i = _varint(message, i)
            yield number, wire, value
            continue
        if wire == 2:
            size, i = _varint(message, i)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if i + size > len(message):
            raise ValueError("a field longer than its message")
        yield number, wire, message[i : i + size]
        i += size


def _varint(message: bytes, i: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[i]
        value |= (byte & 0x7F) << shift
        i, shift = i + 1, shift + 7
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, i
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _event(message: bytes) -> list[tuple[str, int, float]]:
    step, values = 0, []
    for number, _, content in _fields(message):
        if number == 2 and isinstance(content, int):
            step = content - (1 << 64) if content >= 1 << 63 else content
        elif number == 5 and isinstance(content, bytes):
            values += [part for n, _, part in _fields(content) if n == 1 and isinstance(part, bytes)]
    found = []
    for value in values:
        tag, number = "", None
        for n, wire, part in _fields(value):
            if n == 1 and isinstance(part, bytes):
                tag = part.decode("utf-8", errors="replace")
            elif n == 2 and wire == 5 and isinstance(part, bytes):
                number = struct.unpack("<f", part)[0]
            elif n == 8 and isinstance(part, bytes):
                number = _scalar_tensor(part)
        if tag and number is not None:
            found.append((tag, step, float(number)))
    return found


_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # of TensorFlow
_TYPED = {5: "<f4", 6: "<f8"}  # fields with float and double values


def _scalar_tensor(message: bytes) -> float | None:
    """The value of a tensor with one element; None for any other tensor, text among them."""
    kind, content = 0, None
    for number, wire, part in _fields(message):
        if number == 1 and isinstance(part, int):
            kind = part
        elif number == 4 and isinstance(part, bytes) and kind in _DTYPES:
            content = np.frombuffer(part, _DTYPES[kind]) if len(part) == np.dtype(_DTYPES[kind]).itemsize else None
        elif number in _TYPED and wire in (1, 2, 5) and isinstance(part, bytes):
            content = np.frombuffer(part, _TYPED[number]) if len(part) == np.dtype(_TYPED[number]).itemsize else None
        elif number in (7, 10) and kind in (3, 9):
            whole = part if isinstance(part, int) else _varint(part, 0)[0]
            content = np.array([whole - (1 << 64) if whole >= 1 << 63 else whole])
    return float(content[0]) if content is not None and len(content) == 1 else None
