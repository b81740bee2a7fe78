"""Data sets: which there are, where they are on this machine, whether they are whole, and how to get them.

No torch here, so that the command line stays quick.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from metascale.core.bounded import check_zip, gunzip
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import sha256_of, write_atomic
from metascale.core.suggest import suggest

DRAWING = re.compile(r"images_(?:background|evaluation)/([^/]+)/(character\d+)/(\d+_\d+\.png)")


@dataclass(frozen=True)
class DataFile:
    """One file of a data set and how to tell that it is whole.

    Args:
        path: relative to the data set's folder.
        url: its public home.
        form: ``plain``: ``sha256`` is of the bytes. ``gzip``: of the decompressed bytes, since packers differ.
            ``drawings zip``: every entry's own checksum must hold and there must be ``n_drawings`` drawings.
    """

    path: str
    url: str
    form: Literal["plain", "gzip", "drawings zip"] = "plain"
    sha256: str | None = None
    n_drawings: int | None = None

    def problem(self, data: bytes) -> str | None:
        """What is wrong with ``data`` as this file's content; ``None`` when it is whole."""
        if self.form == "drawings zip":
            return self._zip_problem(data)
        if self.form == "gzip":
            try:
                data = gunzip(data, "it")
            except CorruptFile as error:
                return str(error)
        found = sha256_of(data)
        if self.sha256 is not None and found != self.sha256:
            return f"its SHA-256 is {found[:12]}..., not {self.sha256[:12]}..."
        return None

    def _zip_problem(self, data: bytes) -> str | None:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                check_zip(archive, "it")
                broken = archive.testzip()
                n_found = sum(DRAWING.fullmatch(name) is not None for name in archive.namelist())
        except CorruptFile as error:
            return str(error)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            return f"it is not a whole zip archive ({error})"
        if broken is not None:
            return f"its entry {broken} is damaged"
        if n_found != self.n_drawings:
            return f"it holds {n_found} drawings, not {self.n_drawings}"
        return None


@dataclass(frozen=True)
class DataSet:
    """A public data set: it lives in the folder ``name`` of the data folder."""

    name: str
    summary: str
    licence: str
    citation: str
    home: str
    files: tuple[DataFile, ...]

    @property
    def provenance(self) -> dict[str, str]:
        """For the record of a run."""
        return {"source": self.home, "licence": self.licence, "citation": self.citation}


_BANKING = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data/"
_CLINC = "https://raw.githubusercontent.com/clinc/oos-eval/master/data/"
_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
_VINYALS = (
    "https://raw.githubusercontent.com/jakesnell/prototypical-networks/c9bb4d258267c11cb6e23f0a19242d24ca98ad8a/"
    "data/omniglot/splits/vinyals/"
)
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_WIKITEXT = (
    "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/"
    "word_language_model/data/wikitext-2/"
)
_WEAK = "https://raw.githubusercontent.com/JerrryNie/DyGen/41902c324779157a272548a008a6e487f6d81acc/datasets/"
_WRENCH = "https://huggingface.co/datasets/jieyuz2/WRENCH/resolve/main/"
_WEAK_SOURCE = "Zhang et al. (2021), WRENCH: A Comprehensive Benchmark for Weak Supervision"


def _plain(base: str, *named: tuple[str, str], folder: str = "") -> tuple[DataFile, ...]:
    return tuple(DataFile(f"{folder}{name}", f"{base}{name}", sha256=sha256) for name, sha256 in named)


def _mnist(name: str, sha256: str) -> DataFile:
    return DataFile(f"{name}-ubyte.gz", f"{_MNIST}{name}-ubyte.gz", form="gzip", sha256=sha256)


def _drawings(name: str, n_drawings: int) -> DataFile:
    return DataFile(name, f"{_OMNIGLOT}{name}", form="drawings zip", n_drawings=n_drawings)


DATASETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            "banking77",
            "13,083 customer questions of a bank, 77 intents (10,003 train, 3,080 test)",
            "CC BY 4.0",
            "Casanueva et al. (2020), Efficient Intent Detection with Dual Sentence Encoders",
            "https://github.com/PolyAI-LDN/task-specific-datasets",
            _plain(
                _BANKING,
                ("train.csv", "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b"),
                ("test.csv", "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d"),
            ),
        ),
        DataSet(
            "clinc150",
            "22,500 requests to an assistant, 150 intents in 10 domains (and out-of-scope ones, not used here)",
            "CC BY 3.0",
            "Larson et al. (2019), An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction",
            "https://github.com/clinc/oos-eval",
            _plain(
                _CLINC,
                ("data_full.json", "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0"),
                ("data_small.json", "050e17476e6b4fa88f8518edaf09921c8f5e3a86dc8b63615361102a20b2ac01"),
                ("domains.json", "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a"),
            ),
        ),
        DataSet(
            "mnist",
            "70,000 handwritten digits, 28 x 28 pixels (60,000 train, 10,000 test)",
            "CC BY-SA 3.0 (as commonly stated)",
            "LeCun, Bottou, Bengio, Haffner (1998), Gradient-based learning applied to document recognition",
            "https://yann.lecun.com/exdb/mnist",
            (
                _mnist("train-images-idx3", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
                _mnist("train-labels-idx1", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
                _mnist("t10k-images-idx3", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
                _mnist("t10k-labels-idx1", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
            ),
        ),
        DataSet(
            "omniglot",
            "1,623 hand-drawn characters of 50 alphabets, 20 drawings each, 105 x 105 pixels",
            "MIT",
            "Lake et al. (2015), Human-level concept learning through probabilistic program induction",
            "https://github.com/brendenlake/omniglot",
            (
                _drawings("images_background.zip", 19_280),
                _drawings("images_evaluation.zip", 13_180),
                *_plain(
                    _VINYALS,
                    ("train.txt", "984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0"),
                    ("val.txt", "11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a"),
                    ("test.txt", "845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204"),
                    folder="vinyals_splits/",
                ),
            ),
        ),
        DataSet(
            "wikitext-2-v1",
            "2.5 million words of Wikipedia articles, word level with <unk> (not the raw version)",
            "CC BY-SA 3.0",
            "Merity, Xiong, Bradbury, Socher (2016), Pointer Sentinel Mixture Models",
            "https://huggingface.co/datasets/Salesforce/wikitext",
            _plain(
                _WIKITEXT,
                ("train.txt", "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f"),
                ("valid.txt", "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
                ("test.txt", "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
            ),
        ),
        DataSet(
            "wrench_sms",
            "5,502 text messages, spam or not, with the votes of 73 labelling functions",
            "texts CC BY 4.0",
            _WEAK_SOURCE,
            "https://huggingface.co/datasets/jieyuz2/WRENCH",
            _plain(
                f"{_WEAK}sms/",
                ("label.json", "5ba8069344eaf5578717910018232889bb77d6dad78b7fe7d002aeb089bc7efb"),
                ("labeled_ids.json", "b81d3f72ae34716f0efbe0dd6b110abbd8b70cb8bc494d8623b1b2f3eb61b722"),
                ("train.json", "9d77f52d2af078dbcecffad72c6b22cb6f8fe89c68db0ad99e811be06ec46800"),
                ("valid.json", "977a3b91bdbdb12186b44ee422a51eac85de343b8159e4973b16cf4b3d245d32"),
                ("test.json", "7a3fad03b9ad609e91a276e92b3bc31fbb8a48eacbc1bf42853cd440a4f6c080"),
            ),
        ),
        DataSet(
            "wrench_trec",
            "5,965 questions of 6 types, with the votes of 68 labelling functions",
            "none stated: use it, do not redistribute it",
            _WEAK_SOURCE,
            "https://huggingface.co/datasets/jieyuz2/WRENCH",
            _plain(
                f"{_WEAK}trec/",
                ("label.json", "c5b6ea0cd3a4632639df7eea02f92640ffb561dd6421d831bad7544defdb2e71"),
                ("labeled_ids.json", "340853e0e847642834043eb814656883c85b6ce957e6195d2965c15741c757c6"),
                ("train.json", "92a1cfc914222003512efd69ee55bd89150bf42f35400c1325f861bfe2a0e350"),
                ("valid.json", "56b27e6796ecb4fe63d60060306bdb65dec6f8e5f345cdce068eb50a5f90b5c9"),
                ("test.json", "95b1a8fbefbeda9b75b96416814dd46794872809a2295832761b2a0b7bc5de3d"),
            ),
        ),
        DataSet(
            "wrench_youtube",
            "1,956 comments, spam or not, with the votes of 10 labelling functions",
            "texts CC BY 4.0",
            _WEAK_SOURCE,
            "https://huggingface.co/datasets/jieyuz2/WRENCH",
            _plain(
                f"{_WRENCH}youtube/",
                ("label.json", "6837af4230238ed5c9d5d32ce309083b24491fe5d085f0b779298e7c67eeb74a"),
                ("labeled_ids.json", "b338be1717f640901a6826d2e1cb0ab6b53d71d200ef8a9429de31a219c65c12"),
                ("train.json", "8c487acf4e3e16b340e28f3633d5613f83c4db2d3b287e4341c86ff8f2192705"),
                ("valid.json", "01d28d71c48e34bdde0566a9eead1d9694baa4eae176cea6d979bb59c4516df3"),
                ("test.json", "ef04412aee047657e41d7ad1411f11d05fce13b642bf1bec8897d138343ee12d"),
            ),
        ),
    )
}

ENVIRONMENT = "METASCALE_DATA"
_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 18

Progress: TypeAlias = Callable[[str, int, "int | None"], None]
"""Called with a file's path, the bytes received so far, and the bytes expected (``None``: the server did not say)."""


@dataclass(frozen=True)
class FileReport:
    """One file's state; ``note`` says what is wrong with a corrupt one."""

    path: str
    status: Literal["ok", "missing", "corrupt"]
    note: str = ""


@dataclass(frozen=True)
class DataReport:
    """The state of a data set in a data folder."""

    name: str
    folder: Path
    files: tuple[FileReport, ...]

    @property
    def ok(self) -> bool:
        """Whether every file is there and whole."""
        return all(file.status == "ok" for file in self.files)


def _files(name: str, only: Sequence[str] | None = None) -> list[DataFile]:
    """The files of a data set, or those in ``only``."""
    if name not in DATASETS:
        hint = suggest(name, sorted(DATASETS), "there are")
        raise InputError(f"there is no data set '{name}'; {hint}", field="name", value=name)
    return [file for file in DATASETS[name].files if only is None or file.path in only]


def data_folder(name: str, data_dir: Path | str | None = None) -> Path:
    """The folder of data set ``name``: below ``data_dir``, else below the folder that METASCALE_DATA names."""
    _files(name)
    root = str(data_dir) if data_dir is not None else os.environ.get(ENVIRONMENT, "")
    if not root:
        raise InputError(
            f"where is the data set '{name}'? Name the data folder with `data_dir`=FOLDER or {ENVIRONMENT}=FOLDER; "
            f"`metascale data get {name}` downloads it into that folder",
            field="data_dir",
        )
    return Path(root).expanduser() / name


def check(name: str, data_dir: Path | str | None = None, *, only: Sequence[str] | None = None) -> DataReport:
    """Read every file (or those in ``only``) and say whether it is ok, missing or corrupt."""
    folder = data_folder(name, data_dir)
    reports = []
    for file in _files(name, only):
        path = folder / file.path
        if not path.is_file():
            reports.append(FileReport(file.path, "missing"))
            continue
        problem = file.problem(path.read_bytes())
        reports.append(FileReport(file.path, "corrupt" if problem else "ok", problem or ""))
    return DataReport(name, folder, tuple(reports))


def locate(
    name: str,
    data_dir: Path | str | None = None,
    *,
    only: Sequence[str] | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The folder of data set ``name``, with its files (or those in ``only``) present.

    Contents are not checked here (`check` does that); what is missing is downloaded only with ``download``.

    Raises:
        InputError: an unknown data set, no data folder named, files missing, or a download that failed.
        CorruptFile: a downloaded file is not what it should be.
    """
    folder = data_folder(name, data_dir)
    missing = [file for file in _files(name, only) if not (folder / file.path).is_file()]
    if missing and not download:
        raise InputError(
            f"the data set '{name}' lacks {', '.join(file.path for file in missing)} in {folder}; "
            f"to download it: `metascale data get {name}` with `data_dir`={folder.parent}",
            field="data_dir",
        )
    for file in missing:
        _download(name, file, folder, progress)
    return folder


def get(
    name: str,
    data_dir: Path | str | None = None,
    progress: Progress | None = None,
    *,
    only: Sequence[str] | None = None,
) -> Path:
    """Download what is missing or corrupt of data set ``name`` from its public home; give its folder.

    Each file is checked before it is written, and written whole or not at all.

    Raises:
        InputError: an unknown data set, no data folder named, no connection, or a folder that cannot be written.
        CorruptFile: a downloaded file is not what it should be.
    """
    report = check(name, data_dir, only=only)
    bad = [file.path for file in report.files if file.status != "ok"]
    for file in _files(name, bad):
        _download(name, file, report.folder, progress)
    return report.folder


def _download(name: str, file: DataFile, folder: Path, progress: Progress | None) -> None:
    target, received = folder / file.path, bytearray()
    try:
        with urllib.request.urlopen(file.url, timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length")
            expected = int(length) if length is not None else None
            while chunk := response.read(_CHUNK_BYTES):
                received += chunk
                if progress is not None:
                    progress(file.path, len(received), expected)
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise InputError(
            f"could not download {file.url} for the data set '{name}' ({reason}); connect, or put the file at {target}"
        ) from error
    if expected is not None and len(received) != expected:
        raise InputError(f"the download of {file.url} broke off after {len(received)} of {expected} bytes; try again")
    if problem := file.problem(bytes(received)):
        raise CorruptFile(f"{file.url} does not hold the file {file.path} of '{name}': {problem}; nothing was written")
    try:
        write_atomic(target, bytes(received))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
