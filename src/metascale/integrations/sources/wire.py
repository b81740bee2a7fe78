"""Protocol-buffer messages field by field, and the two framings in which W&B and TensorBoard write them to files.

A reader of its own, since the packages read these files through private modules that move between releases, and since
logs should be readable where the packages are not installed. Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

MOST_RECORD_BYTES = 64 << 20
"""One record of a log; a longer one is passed over."""
_BLOCK, _HEADER = 32768, 7


class Malformed(ValueError):
    """Bytes that are not a message."""


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of a message: by number, every value in order. Varints are int, the rest is bytes."""

    fields: dict[int, list[int | bytes]]

    @classmethod
    def of(cls, data: bytes) -> Message:
        """Raises `Malformed`."""
        fields: dict[int, list[int | bytes]] = {}
        at, end = 0, len(data)
        while at < end:
            tag, at = _varint(data, at)
            kind = tag & 7
            value: int | bytes
            if kind == 0:
                value, at = _varint(data, at)
            else:
                if kind == 2:
                    size, at = _varint(data, at)
                elif kind in (1, 5):
                    size = 8 if kind == 1 else 4
                else:
                    raise Malformed(f"wire type {kind}")
                if at + size > end:
                    raise Malformed("a field is cut off")
                value, at = data[at : at + size], at + size
            fields.setdefault(tag >> 3, []).append(value)
        return cls(fields)

    def bytes_of(self, field: int) -> bytes | None:
        """The last value of a field of bytes or text."""
        value = self.fields.get(field, [None])[-1]
        return value if isinstance(value, bytes) else None

    def text(self, field: int) -> str:
        return (self.bytes_of(field) or b"").decode("utf-8", "replace")

    def all_bytes(self, field: int) -> list[bytes]:
        return [value for value in self.fields.get(field, ()) if isinstance(value, bytes)]

    def message(self, field: int) -> Message | None:
        data = self.bytes_of(field)
        return None if data is None else Message.of(data)

    def messages(self, field: int) -> list[Message]:
        return [Message.of(data) for data in self.all_bytes(field)]

    def integer(self, field: int) -> int | None:
        """A signed 64-bit integer (not zigzag)."""
        value = self.fields.get(field, [None])[-1]
        if not isinstance(value, int):
            return None
        return value - (1 << 64) if value >> 63 else value

    def zigzag(self, field: int) -> int | None:
        value = self.fields.get(field, [None])[-1]
        return (value >> 1) ^ -(value & 1) if isinstance(value, int) else None

    def double(self, field: int) -> float | None:
        """A double or a float."""
        data = self.bytes_of(field)
        if data is None or len(data) not in (4, 8):
            return None
        return float(struct.unpack("<f" if len(data) == 4 else "<d", data)[0])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Malformed("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
    raise Malformed("a number has more than 64 bits")


def tfrecords(stream: IO[bytes]) -> Iterator[bytes]:
    """The records of a TFRecord file: length, checksum, bytes, checksum. A record that is cut off ends it.

    Raises:
        Malformed: a length whose checksum is wrong: what follows cannot be found.
    """
    while len(head := stream.read(12)) == 12:
        length, check = struct.unpack("<QI", head)
        if check != _masked_crc(head[:8]):
            raise Malformed("a record's length does not have its checksum")
        if length > MOST_RECORD_BYTES:
            stream.seek(length + 4, 1)
            continue
        data = stream.read(length)
        if len(data) < length or len(stream.read(4)) < 4:
            return
        yield data


def leveldb_records(stream: IO[bytes]) -> Iterator[bytes]:
    """The records of a log in LevelDB's format (blocks of 32 KiB, records in fragments), as W&B writes them.

    The first 7 bytes are W&B's header. A record that is cut off ends it.

    Raises:
        Malformed: it is no such file.
    """
    if stream.read(_HEADER)[:4] != b":W&B":
        raise Malformed("it does not begin with ':W&B'")
    room = _BLOCK - _HEADER
    parts: list[bytes] = []
    while True:
        if room < _HEADER:
            stream.read(room)
            room = _BLOCK
        head = stream.read(_HEADER)
        if len(head) < _HEADER:
            return
        _, length, kind = struct.unpack("<IHB", head)
        room -= _HEADER + length
        data = stream.read(length)
        if len(data) < length:
            return
        if room < 0 or kind > 4:
            raise Malformed("a fragment reaches over its block")
        if kind in (1, 2):  # whole, first
            parts = []
        if sum(map(len, parts)) <= MOST_RECORD_BYTES:
            parts.append(data)
        if kind in (1, 4):  # whole, last
            if sum(map(len, parts)) <= MOST_RECORD_BYTES:
                yield b"".join(parts)
            parts = []


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    """CRC-32C, masked as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
