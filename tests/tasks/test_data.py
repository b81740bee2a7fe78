"""The registry: where data is, whether it is whole, and downloads from a local server."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import sha256_of
from metascale.tasks import datasets
from metascale.tasks.datasets import DATASETS, DataFile, DataSet

TEXT = b"text,category\nhello,greeting\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return


class BreaksOff(BaseHTTPRequestHandler):
    """Promises more bytes than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")

    def log_message(self, format: str, *args: object) -> None:
        return


def _serve(handler: object) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A local web server with the files of the invented data set."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "rows.csv").write_bytes(TEXT)
    (home / "pictures.gz").write_bytes(gzip.compress(b"pictures", compresslevel=1))
    (home / "drawings.zip").write_bytes(drawings_zip(2))
    yield from _serve(partial(Quiet, directory=str(home)))


@pytest.fixture
def broken_server() -> Iterator[str]:
    yield from _serve(BreaksOff)


def drawings_zip(n_drawings: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("images_background/", b"")
        for number in range(n_drawings):
            archive.writestr(f"images_background/Greek/character01/0001_{number:02d}.png", b"a picture of a letter")
    return buffer.getvalue()


def register(monkeypatch: pytest.MonkeyPatch, base: str, csv_sha256: str = sha256_of(TEXT)) -> None:
    files = (
        DataFile("rows.csv", f"{base}rows.csv", sha256=csv_sha256),
        DataFile("sub/pictures.gz", f"{base}pictures.gz", form="gzip", sha256=sha256_of(b"pictures")),
        DataFile("drawings.zip", f"{base}drawings.zip", form="drawings zip", n_drawings=2),
    )
    monkeypatch.setitem(DATASETS, "invented", DataSet("invented", "s", "MIT", "c", base, files))


def statuses(folder: Path) -> dict[str, str]:
    return {file.path: file.status for file in datasets.check("invented", folder).files}


def test_get_downloads_what_is_missing(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, server)
    target = tmp_path / "data"
    assert set(statuses(target).values()) == {"missing"}
    seen: list[tuple[str, int, int | None]] = []
    folder = datasets.get("invented", target, lambda *progress: seen.append(progress))
    assert folder == target / "invented"
    assert datasets.check("invented", target).ok
    assert (folder / "rows.csv").read_bytes() == TEXT
    assert ("rows.csv", len(TEXT), len(TEXT)) in seen
    assert {path for path, _, _ in seen} == {"rows.csv", "sub/pictures.gz", "drawings.zip"}
    assert not [path for path in target.rglob("*") if path.name.startswith(".")]


def test_get_leaves_whole_files_alone_and_mends_corrupt_ones(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, server)
    folder = datasets.get("invented", tmp_path)
    (folder / "rows.csv").write_bytes(TEXT.replace(b"hello", b"hallo"))
    seen: list[str] = []
    datasets.get("invented", tmp_path, lambda path, received, expected: seen.append(path))
    assert set(seen) == {"rows.csv"}
    assert (folder / "rows.csv").read_bytes() == TEXT


def test_locate_downloads_only_when_told(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, server)
    with pytest.raises(
        InputError,
        match=r"lacks rows\.csv, sub/pictures\.gz, drawings\.zip in .* `metascale data get invented` with `data_dir`=",
    ):
        datasets.locate("invented", tmp_path)
    assert not (tmp_path / "invented").exists()
    folder = datasets.locate("invented", tmp_path, only=("rows.csv",), download=True)
    assert [path.name for path in folder.iterdir()] == ["rows.csv"]
    assert datasets.locate("invented", tmp_path, only=("rows.csv",)) == folder


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_check_finds_flipped_and_cut_files(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, server)
    folder = datasets.get("invented", tmp_path)
    zipped = (folder / "drawings.zip").read_bytes()
    _flip(folder / "rows.csv", 3)
    _flip(folder / "sub" / "pictures.gz", 12)
    _flip(folder / "drawings.zip", zipped.index(b"a picture"))
    assert set(statuses(tmp_path).values()) == {"corrupt"}
    assert "damaged" in datasets.check("invented", tmp_path).files[2].note
    for path in ("rows.csv", "sub/pictures.gz", "drawings.zip"):
        (folder / path).write_bytes((folder / path).read_bytes()[:-9])
    assert set(statuses(tmp_path).values()) == {"corrupt"}
    (folder / "drawings.zip").write_bytes(drawings_zip(3))
    assert "holds 3 drawings, not 2" in datasets.check("invented", tmp_path).files[2].note
    assert not datasets.check("invented", tmp_path).ok


def test_another_packing_of_the_same_content_is_whole(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, server)
    folder = datasets.get("invented", tmp_path)
    (folder / "sub" / "pictures.gz").write_bytes(gzip.compress(b"pictures", compresslevel=9, mtime=1))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(drawings_zip(2))) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in reversed(old.namelist()):
            new.writestr(name, old.read(name))
    (folder / "drawings.zip").write_bytes(buffer.getvalue())
    assert datasets.check("invented", tmp_path).ok


def test_a_download_that_is_not_the_file_is_refused(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, server, csv_sha256="0" * 64)
    with pytest.raises(CorruptFile, match=r"rows\.csv .*nothing was written"):
        datasets.get("invented", tmp_path)
    assert not (tmp_path / "invented").exists()


def test_a_broken_off_download_is_refused(tmp_path: Path, broken_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, broken_server)
    with pytest.raises(InputError, match="broke off after 9 of 1000 bytes"):
        datasets.get("invented", tmp_path)
    assert not (tmp_path / "invented").exists()


def test_without_a_connection_the_message_names_file_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "http://127.0.0.1:9/")
    with pytest.raises(
        InputError, match=r"could not download http://127.0.0.1:9/rows.csv .*put the file at .*rows.csv"
    ):
        datasets.get("invented", tmp_path)


def test_a_page_that_is_not_there_is_said(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, f"{server}elsewhere/")
    with pytest.raises(InputError, match="could not download"):
        datasets.locate("invented", tmp_path, download=True)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, server)
    (tmp_path / "invented").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot write"):
        datasets.get("invented", tmp_path)


def test_file_addresses_work_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "rows.csv").write_bytes(TEXT)
    register(monkeypatch, f"{home.as_uri()}/")
    assert datasets.get("invented", tmp_path / "data", only=("rows.csv",)).joinpath("rows.csv").read_bytes() == TEXT


def test_no_folder_named_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("METASCALE_DATA", raising=False)
    with pytest.raises(
        InputError, match=r"`data_dir`=FOLDER or METASCALE_DATA=FOLDER; `metascale data get banking77` downloads"
    ):
        datasets.locate("banking77")
    monkeypatch.setenv("METASCALE_DATA", str(tmp_path))
    assert datasets.data_folder("banking77") == tmp_path / "banking77"
    assert datasets.data_folder("banking77", "elsewhere") == Path("elsewhere/banking77")


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="no data set 'banking'; did you mean 'banking77'"):
        datasets.check("banking", "anywhere")


def test_every_data_set_says_what_it_is() -> None:
    listed = {data_set.name: data_set for data_set in datasets.DATASETS.values()}
    assert {"banking77", "clinc150", "omniglot", "mnist", "wikitext-2-v1"} <= set(listed)
    for data_set in listed.values():
        assert data_set.licence
        assert data_set.citation
        assert data_set.home.startswith("https://")
        for file in data_set.files:
            assert file.url.startswith("https://")
            assert (file.n_drawings is not None) if file.form == "drawings zip" else len(file.sha256 or "") == 64


@pytest.mark.long
def test_real_data_is_whole(data_dir: Path) -> None:
    for data_set in datasets.DATASETS.values():
        report = datasets.check(data_set.name, data_dir)
        if any(file.status == "missing" for file in report.files):
            pytest.skip(f"the data set '{data_set.name}' is absent from METASCALE_DATA")
        assert report.ok, report


def test_the_registry_does_not_load_torch() -> None:
    code = "import sys, metascale.tasks.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
