"""Decompression with a bound: a small file must not become gigabytes of memory, whatever it claims to hold."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib

from metascale.core.errors import CorruptFile
from metascale.core.units import format_bytes

MOST_BYTES = 256 << 20
"""What one compressed file may expand to; the largest that we read, MNIST's images, has 47 MB."""
MOST_ENTRIES = 200_000
"""Entries of a zip archive; Omniglot's larger one has 20,211."""


def gunzip(data: bytes, where: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of gzip ``data``.

    Raises:
        CorruptFile: it is damaged, or expands to more than ``most_bytes``; no more than that is ever held.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            content = stream.read(most_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptFile(f"{where} cannot be decompressed ({error})") from error
    if len(content) > most_bytes:
        raise CorruptFile(_too_much(where, most_bytes))
    return content


def inflate(data: bytes, where: str, most_bytes: int) -> bytes:
    """The content of a zlib stream.

    Raises:
        CorruptFile: it is damaged or not whole, or expands to more than ``most_bytes``.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, most_bytes + 1)
    except zlib.error as error:
        raise CorruptFile(f"{where} cannot be decompressed ({error})") from error
    if len(content) > most_bytes:
        raise CorruptFile(_too_much(where, most_bytes))
    if not stream.eof:
        raise CorruptFile(f"{where} cannot be decompressed (it is not whole)")
    return content


def check_zip(archive: zipfile.ZipFile, where: str, most_bytes: int = MOST_BYTES) -> None:
    """Refuse an archive that says it expands to more than it may; no entry is read beyond the size that it states.

    Raises:
        CorruptFile: more bytes or entries than allowed.
    """
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise CorruptFile(f"{where} holds {len(entries):,} entries; at most {MOST_ENTRIES:,} are read")
    if sum(entry.file_size for entry in entries) > most_bytes:
        raise CorruptFile(_too_much(where, most_bytes))


def _too_much(where: str, most_bytes: int) -> str:
    return f"{where} expands to more than {format_bytes(most_bytes)}, the most that is read of it"
