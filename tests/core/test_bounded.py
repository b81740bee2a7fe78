"""What expands is bounded: harmless zeros against a small bound, in every reader of compressed files."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.core import bounded
from metascale.core.bounded import check_zip, gunzip, inflate
from metascale.core.errors import CorruptFile
from metascale.core.files import sha256_of
from metascale.tasks.datasets import DataFile
from metascale.tasks.omniglot import ZIPS, _read_cache, decode_zips
from metascale.tasks.supervised.images import read_idx

ZEROS = bytes(8 << 20)
MORE = "expands to more than 1.00 MiB"


@pytest.fixture(autouse=True)
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (gunzip, check_zip):
        monkeypatch.setattr(function, "__defaults__", (1 << 20,))


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def test_gzip_holds_no_more_than_its_bound() -> None:
    data = gzip.compress(ZEROS * 8)
    tracemalloc.start()
    with pytest.raises(CorruptFile, match=f"^f {MORE}"):
        gunzip(data, "f")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    exact = gzip.compress(ZEROS[: 1 << 20])
    assert gunzip(exact, "f") == ZEROS[: 1 << 20]
    for broken in (exact[:-9], b"no gzip", b""):
        with pytest.raises(CorruptFile, match="cannot be decompressed"):
            gunzip(broken, "f") if broken else inflate(broken, "f", 1)


def test_a_zlib_stream_is_bounded_and_whole() -> None:
    data = zlib.compress(ZEROS)
    with pytest.raises(CorruptFile, match=MORE):
        inflate(data, "f", 1 << 20)
    assert inflate(data, "f", len(ZEROS)) == ZEROS
    with pytest.raises(CorruptFile, match="not whole"):
        inflate(data[:-20], "f", len(ZEROS))


def test_data_files_are_bounded() -> None:
    assert MORE in str(DataFile("f.gz", "u", "gzip").problem(gzip.compress(ZEROS)))
    assert MORE in str(DataFile("f.zip", "u", "drawings zip", n_drawings=1).problem(zipped("a.png", ZEROS)))


def test_images_drawings_and_the_cache_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "i.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\x00\x80\x00\x00" + ZEROS))
    with pytest.raises(CorruptFile, match=MORE):
        read_idx(tmp_path / "i.gz")
    for name in ZIPS:
        (tmp_path / name).write_bytes(zipped("images_background/A/character01/0001_01.png", ZEROS))
    with pytest.raises(CorruptFile, match=MORE):
        decode_zips(tmp_path)
    # A drawing whose own stream expands, in an archive of the size that it states.
    png = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\0\x69\0\0\0\x69\x01\0\0\0\0" + b"\0\0\0\0"
    stream = zlib.compress(ZEROS)
    png += len(stream).to_bytes(4, "big") + b"IDAT" + stream + b"\0\0\0\0"
    (tmp_path / ZIPS[0]).write_bytes(zipped("images_background/A/character01/0001_01.png", png))
    with pytest.raises(CorruptFile, match=r"a drawing expands to more than 1\.54 KiB"):
        decode_zips(tmp_path)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, names=np.array(["a"]), n_background=1, images=np.zeros(8 << 20, np.uint8))
    for content, said in ((buffer.getvalue(), MORE), (b"PK no archive", "is no cache file of ours")):
        (tmp_path / "c.npz").write_bytes(sha256_of(content).encode() + content)
        with pytest.raises(CorruptFile, match=said):
            _read_cache(tmp_path / "c.npz")
    monkeypatch.setattr(bounded, "MOST_ENTRIES", 0)
    with zipfile.ZipFile(io.BytesIO(zipped("a", b""))) as archive, pytest.raises(CorruptFile, match="1 entries"):
        check_zip(archive, "f")


def test_no_more_than_one_byte_above_the_bound_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    class Stream:
        eof = True

        def decompress(self, data: bytes, *most: int) -> bytes:
            asked.append(most)
            return data

    monkeypatch.setattr(zlib, "decompressobj", Stream)
    assert inflate(b"1234", "x", 4) == b"1234"
    with pytest.raises(CorruptFile, match=r"^x expands to more than 4 B"):
        inflate(b"12345", "x", 4)
    assert asked == [(5,), (5,)]


@pytest.mark.parametrize(("n", "fits"), [(200_000, True), (200_001, False)])
def test_an_archive_has_up_to_200_000_entries(n: int, fits: bool) -> None:
    archive: Any = SimpleNamespace(infolist=lambda: [SimpleNamespace(file_size=0)] * n)
    said = r"^x holds 200,001 entries; at most 200,000 are read$"
    with nullcontext() if fits else pytest.raises(CorruptFile, match=said):
        check_zip(archive, "x")
