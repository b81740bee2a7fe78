"""Durable files: whatever happens, a reader sees the old content or the new; corrupt files are named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metascale.core import files
from metascale.core.canonical import canonical_json
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import (
    append_lines,
    content_of,
    heal_lines,
    read_json,
    read_json_lines,
    sha256_of,
    write_atomic,
    write_json,
)


class Crash(BaseException):
    """The process ends here: nothing after it runs, no clean-up of ours either."""


class HalfWriter:
    """A stream that writes half of what it is given and then raises ``error``."""

    def __init__(self, path: Path, error: BaseException) -> None:
        self.stream = open(path, "wb")  # noqa: SIM115 - closed on exit, like the stream it stands for
        self.error = error

    def __enter__(self) -> HalfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def write(self, data: bytes) -> None:
        self.stream.write(data[: len(data) // 2])
        self.stream.flush()
        raise self.error


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def fail_at(monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException) -> None:
    """Let ``write_atomic`` raise ``error`` at one place."""
    if place == "write":
        monkeypatch.setattr(files, "open", lambda path, mode: HalfWriter(path, error), raising=False)
    elif place == "open":
        monkeypatch.setattr(files, "open", raising(error), raising=False)
    elif place == "folder":
        monkeypatch.setattr(files, "sync_folder", raising(error))
    else:
        monkeypatch.setattr(f"os.{place}", raising(error))


PLACES = ("open", "write", "fsync", "replace", "folder")


@pytest.mark.parametrize("place", PLACES)
def test_a_crash_leaves_the_old_content_or_the_new(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, "old content")
    with monkeypatch.context() as patch:
        fail_at(patch, place, Crash())
        with pytest.raises(Crash):
            write_atomic(path, "the new content")
    assert path.read_text() == ("the new content" if place == "folder" else "old content")
    write_atomic(path, "a third one")
    assert path.read_text() == "a third one"
    assert list(tmp_path.iterdir()) == [path], "the next write tidies up after the crash"


@pytest.mark.parametrize("place", PLACES[:-1])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, "old content")
    with monkeypatch.context() as patch:
        fail_at(patch, place, OSError(errno.ENOSPC, "no space left on device"))
        with pytest.raises(OSError, match="no space left") as caught:
            write_atomic(path, "the new content")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old content"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_durable_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        assert Path(source).read_text() == "content", "the whole content is there before the rename"
        assert Path(source).parent == Path(target).parent, "a rename is atomic within one folder's file system only"
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr("os.fsync", noted_fsync)
    monkeypatch.setattr("os.replace", noted_replace)
    write_atomic(tmp_path / "state.txt", "content")
    assert calls == ["fsync file", "rename", "fsync folder"]
    calls.clear()
    append_lines(tmp_path / "lines.jsonl", ["1"])
    append_lines(tmp_path / "lines.jsonl", ["2"])
    assert calls == ["fsync file", "fsync folder", "fsync file"]


def test_text_bytes_and_missing_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomic(path, "ünï → \n\r\n")
    assert path.read_bytes() == "ünï → \n\r\n".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    write_atomic(path, b"")
    assert path.read_bytes() == b""


def test_json_comes_back_and_non_finite_numbers_leave_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {"b": [1, 2.5, None], "a": {"ü": 1e-300}}
    write_json(path, value)
    assert read_json(path) == value
    assert list(json.loads(path.read_text(encoding="utf-8"))) == ["a", "b"], "keys are sorted"
    with pytest.raises(InputError, match="only finite numbers"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == value


@pytest.mark.parametrize("data", [b"", b'{"a": 1', b'{"a": 1} trailing', b"\xff\xfe{}"])
def test_a_corrupt_json_file_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=r"broken\.json is not valid JSON"):
        read_json(path)


def test_a_missing_json_file_is_missing_not_corrupt(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")


def test_json_does_not_depend_on_the_locale(tmp_path: Path) -> None:
    """Written as UTF-8, read as UTF-8: a read that leaves the encoding to the locale warns under this switch."""
    code = (
        "import sys; from pathlib import Path; from metascale.core.files import read_json, write_json\n"
        "path = Path(sys.argv[1]); write_json(path, 'ü'); assert read_json(path) == 'ü'"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-c", code, str(tmp_path / "value.json")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    ours = [line for line in found.stderr.splitlines() if "EncodingWarning" in line and "metascale" in line]
    assert ours == []


def test_lines_are_appended_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lines.jsonl"
    assert read_json_lines(path) == []
    append_lines(path, ['{"step":1}', '{"step":2}'])
    append_lines(path, (canonical_json({"step": 3, "name": "ü"}) for _ in range(1)))
    append_lines(path, [])
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}, {"step": 3, "name": "ü"}]


def test_a_torn_last_line_is_left_out_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    whole = b'{"step":1}\n{"step":2}\n'
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_json_lines(path) == [{"step": 1}, {"step": 2}][: whole[:length].count(b"\n")]


def test_a_broken_line_that_is_not_the_last_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step":1}\n{"step"\n{"step":3}\n')
    with pytest.raises(CorruptFile, match=r"lines\.jsonl, line 2, is not valid JSON"):
        read_json_lines(path)


def test_a_line_torn_inside_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step":1}\n' + '{"name":"ü'.encode()[:-1])
    assert read_json_lines(path) == [{"step": 1}]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_only_a_newline_ends_a_line(separator: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_lines(path, [canonical_json({"text": f"a{separator}b"})])
    assert read_json_lines(path) == [{"text": f"a{separator}b"}]


def test_sha256_of_nothing_and_of_abc() -> None:
    """The values of FIPS 180-4's examples."""
    assert sha256_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


FIVE_OPERATIONS = """
import sys
from pathlib import Path
from metascale.core.files import (
    append_lines,
    content_of,
    heal_lines,
    read_json,
    read_json_lines,
    sha256_of,
    write_atomic,
    write_json,
)
folder = Path(sys.argv[1])
for number in (1, 2, 3):
    append_lines(folder / "lines.jsonl", [str(number)])
    if number < 3:
        write_json(folder / "value.json", number)
print("the end")
"""


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6, None])
def test_the_process_is_killed_at_the_named_write(nth: int | None, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "METASCALE_ABORT_AT_WRITE"}
    if nth is not None:
        environment["METASCALE_ABORT_AT_WRITE"] = str(nth)
    command = [sys.executable, "-c", FIVE_OPERATIONS, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    done = 5 if nth is None else min(nth - 1, 5)
    assert ended.returncode == (0 if done == 5 else -signal.SIGKILL)
    assert ("the end" in ended.stdout) == (done == 5)
    assert read_json_lines(tmp_path / "lines.jsonl") == [1, 2, 3][: (done + 1) // 2]
    if done >= 2:
        assert read_json(tmp_path / "value.json") == done // 2
    else:
        assert not (tmp_path / "value.json").exists()


@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("1\n2\n", "1\n2\n"), ("1\n22", "1\n"), ("22", ""), ("1\n\n2", "1\n\n")]
)
def test_a_torn_last_line_is_cut_off(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    heal_lines(path)
    assert not path.exists()
    path.write_text(before)
    heal_lines(path)
    assert path.read_text() == after


def test_a_small_file_s_content_is_hashed_whole_and_read_once(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc" * 400_000)  # more than one block
    sha = hashlib.sha256(b"abc" * 400_000).hexdigest()
    assert content_of(path) == {"name": "weights.bin", "n_bytes": 1_200_000, "sha256": sha}
    path.write_bytes(b"abd")
    assert content_of(path)["sha256"] == sha256_of(b"abd")


def test_of_a_large_file_64_blocks_from_end_to_end_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 bytes of a file of 640: number k of 64 begins at ⌊k · 637 / 63⌋, the last one at 637."""
    monkeypatch.setattr(files, "WHOLE_BYTES", 639)
    monkeypatch.setattr(files, "_SAMPLE_BYTES", 3)
    path, data = tmp_path / "large.bin", bytes(k % 251 for k in range(640))
    path.write_bytes(data)
    blocks = b"".join(data[k * 637 // 63 :][:3] for k in range(64))
    assert blocks[-3:] == data[-3:]
    expected = {"name": "large.bin", "n_bytes": 640, "sha256": sha256_of(blocks), "sampled": True}
    assert content_of(path) == expected
    monkeypatch.setattr(files, "WHOLE_BYTES", 640)
    assert content_of(path) == {"name": "large.bin", "n_bytes": 640, "sha256": sha256_of(data)}
