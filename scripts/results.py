"""Records of studies, and the parts of pages that are generated from them.

    python scripts/results.py record FOLDER NAME   keep the small record of a finished study as NAME; --cpu SECONDS:
                                                   of processor time, as the shell's time told it
    python scripts/results.py pages                write every generated part of README and docs/results again
    python scripts/results.py refit                fit the laws of the recorded tables again, then write the pages
    python scripts/results.py again [NAME...]      run the recorded commands (all) again, record them, write the pages

A record is a folder docs/results/records/NAME: results.csv (the table of the study without columns that no page needs),
study.json (its definition), law.json, with several laws also laws.json (curves thinned out), and record.json (command,
commit, date, hardware, seconds, versions, and what the page compares). Of searches tuning.json has what was tried and
found; their trials stand in no table. What a study concludes besides (size.json) is kept as it is.

A page has generated parts between ``<!-- generated: NAME.PART -->`` and ``<!-- end -->``; PARTS lists them. Rows of
docs/results/README.md that end in ``<!-- generated: NAME.row -->`` have generated cells. What is written by hand
repeats no number of them. tests/test_results.py holds pages to records, and the laws of records to their tables.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import arm_parts
import factor_parts
import matplotlib
import memory_parts
import size_parts
from PIL import Image, PngImagePlugin
from pydantic import TypeAdapter

from metascale.cli.run import _parse_seeds, _parse_values
from metascale.core.canonical import plain
from metascale.core.columns import LAW_JSON, LAWS_JSON, MAIN_KINDS, RESULTS_CSV, SIZE_JSON, TUNING, TUNING_JSON
from metascale.core.files import read_json, sha256_of, write_json
from metascale.core.units import format_seconds
from metascale.laws import grouped
from metascale.laws.record import Band, LawRecord, read_laws, write_laws
from metascale.report.section import Block, Bullets, Code, Folded, Note, PageTable, Pairs, Picture, of, unfolded
from metascale.report.sections import law as laws
from metascale.report.sections.contest import (
    Comparison,
    Contest,
    Contestant,
    comparisons_table,
    contest_data,
    contest_table,
)
from metascale.report.sections.diagnosis import convergence, diagnosis_data, diagnosis_sentence
from metascale.report.sections.provenance import gather
from metascale.report.sections.scales import accuracy_data
from metascale.report.study import ReportStudy, RunRow, _method, open_study
from metascale.report.words import axis_label, interval, measured
from metascale.report.write import finding_of, png
from metascale.study.content import CONTENT, PLACES
from metascale.study.definition import load_definition, save_definition
from metascale.study.design import Study
from metascale.study.search.search import search_of
from metascale.study.store.folder import RunView, StudyView, run_folder
from metascale.study.store.records import parse_cell
from metascale.study.store.table import ResultsTable, results_table
from metascale.workflow.conclude import laws_of
from metascale.workflow.recipe import load_recipe, roles_of

sys.path.insert(0, str(Path(__file__).parent))
from contrasts import CONTRASTS, Contrast, contrasts, contrasts_answer, contrasts_table, weights_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
RECORDS = RESULTS / "records"
IMAGES = ROOT / "docs" / "images"
RECORD_JSON = "record.json"
NOT_KEPT = ("theta_sha256",)
"""Columns of results.csv that no page needs; neither are columns without a value."""
TEXTS = ("id", "label", "message", "method")
"""Columns that hold no numbers, whatever their texts look like."""
CURVE_POINTS = 25
EXPONENTS = {"alpha": "α", "beta": "β"}
"""Of a law in two scales: parameters that a row shows."""
PART = re.compile(r"(<!-- generated: ([\w-]+)\.(\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
ROW = re.compile(r"^\|(.*)\|[^|]*<!-- generated: ([\w-]+)\.row --> \|$", re.MULTILINE)


@dataclass(frozen=True)
class Record:
    """A study's record: the study as the report reads it, and what record.json says."""

    name: str
    study: ReportStudy
    told: Mapping[str, Any]

    @property
    def table(self) -> ResultsTable:
        """results.csv with its types."""
        return _table(self.study.folder)

    @property
    def contest(self) -> Contest:
        """What the page compares; the losses of single tasks, which the paired tests took, are not in a record."""
        found = self.told["contest"]
        rows = TypeAdapter(tuple[Contestant, ...]).validate_python(found["rows"])
        comparisons = TypeAdapter(tuple[Comparison, ...]).validate_python(found["comparisons"])
        return replace(contest_data(self.study), rows=rows, comparisons=comparisons)

    def beside(self, name: str) -> Record:
        """Another record, which a page shows in the same table."""
        return open_record(name)

    def refitted(self) -> dict[str, LawRecord]:
        """The laws of the recorded table, fitted anew and thinned out as a record's are."""
        found, _ = laws_of(self.study.view.study, self.table)
        return {series: thinned(one.record()) for series, one in found.items()}

    def today(self) -> Study:
        """What the recorded command asks for today; the data need not be there."""
        return study_of(self.told["command"])

    def asks_alike(self, today: Study) -> bool:
        """Whether a study asks for the recorded trials: by their ids, which hash every value of a configuration. With
        a search ids depend on what it found, so that the study itself is compared."""
        kept = self.study.view.study
        if search_of(kept) is None:
            return {trial.id for trial in today.trials()} == set(self.table.column("id"))
        return _asked(kept) == _asked(today)

    @property
    def digest(self) -> str:
        """Of the files that a picture is drawn from."""
        kinds = (RESULTS_CSV, LAW_JSON, LAWS_JSON, SIZE_JSON, TUNING_JSON)
        names = [name for name in kinds if (self.study.folder / name).exists()]
        return sha256_of(b"".join((self.study.folder / name).read_bytes() for name in names))


def record(folder: Path, name: str, cpu_s: float | None = None) -> Path:
    """Write the record of the finished study in ``folder``, whose command took ``cpu_s`` of processor time."""
    study, place = open_study(folder), RECORDS / name
    place.mkdir(parents=True, exist_ok=True)
    table, definition = results_table(folder), load_definition(folder)
    table = ResultsTable(table.columns, tuple(row for row in table.rows if row["kind"] != TUNING))
    kept = [key for key in table.columns if key not in NOT_KEPT and any(row[key] is not None for row in table.rows)]
    (place / RESULTS_CSV).write_text(ResultsTable(tuple(kept), table.rows).to_csv(), encoding="utf-8")
    main = tuple(trial for trial in definition.trials if trial.kind != TUNING)
    save_definition(place, replace(definition, trials=main))
    for own in (SIZE_JSON, TUNING_JSON):
        if (folder / own).exists():
            write_json(place / own, read_json(folder / own))
    write_laws(place, {series: thinned(law) for series, law in read_laws(folder).items()})
    took = {} if cpu_s is None else {"cpu_s": round(cpu_s, 1)}
    write_json(place / RECORD_JSON, {"name": name, **_told(study), **took})
    return place


def _asked(study: Study) -> list[Any]:
    """What makes the trials of a study: its base but for the data's hashes, its axes and seeds."""
    base = plain({key: value for key, value in study.base.items() if key not in (CONTENT, PLACES)})
    return [study.trial, base, plain(study.axes), list(study.axes), list(study.seeds)]


def _told(study: ReportStudy) -> dict[str, Any]:
    found, contest = gather(study), contest_data(study)
    events = [event for run in study.runs for event in run.run.history() if "at" in event]
    times = [float(event["at"]) for event in events]
    rows = [asdict(replace(row, losses={})) for row in contest.shown]
    diagnosed = diagnosis_data(study)
    told = {
        "command": study.launched.get("command"),
        "commit": found.sources[0].revision if found.sources else None,
        **({"commits": [source.revision for source in found.sources]} if len(found.sources) > 1 else {}),
        "uncommitted": sorted({name for source in found.sources for name in source.changed_files}),
        "date": time.strftime("%Y-%m-%d", time.gmtime(max(times))) if times else None,
        "n_trials": len(study.runs),
        "trial_s": round(sum(run.run.wall_s() for run in study.runs), 1),
        "elapsed_s": round(max(times) - min(times), 1) if times else None,
        "hardware": found.hardware,
        "threads": found.threads,
        "versions": {name: found.packages.get(name, ()) for name in ("metascale", "torch", "numpy", "scipy")},
        "launched": study.launched,
        "baselines": study.baselines,
        "diagnosis": diagnosis_sentence(diagnosed) if diagnosed.rows else None,
        "contest": {"rows": rows, "comparisons": [asdict(one) for one in contest.comparisons]},
    }
    return plain(told)


def thinned(law: LawRecord) -> LawRecord:
    """A law with few points of its curve, each to seven digits."""
    if law.curve is None:
        return law
    last = len(law.curve.x) - 1
    places = sorted({round(k * last / (CURVE_POINTS - 1)) for k in range(CURVE_POINTS)})
    columns = (law.curve.x, law.curve.median, law.curve.low, law.curve.high)
    return replace(law, curve=Band.of(*([float(f"{column[k]:.7g}") for k in places] for column in columns)))


def names() -> list[str]:
    """The records that there are."""
    return sorted(path.parent.name for path in RECORDS.glob(f"*/{RECORD_JSON}"))


def open_record(name: str) -> Record:
    """A record as the report reads a study, without the folders of runs."""
    place = RECORDS / name
    told, definition, table = read_json(place / RECORD_JSON), load_definition(place), _table(place)
    study = definition.study
    short = {key: key.rsplit(".", 1)[-1] for key in study.axes if key in table.columns}
    rows, runs = {row["id"]: row for row in table.rows}, []
    for trial in definition.trials:
        cells = {**{word: rows[trial.id][key] for key, word in short.items()}, **rows[trial.id]}
        runs.append(RunRow(RunView(trial, run_folder(place, trial)), cells, _method(cells, study.base)))
    opened = ReportStudy(
        view=StudyView(place, study, tuple(run.run for run in runs)),
        runs=tuple(runs),
        columns=tuple(dict.fromkeys([*short.values(), *table.columns])),
        launched=told["launched"],
        laws=read_laws(place),
        baselines=told["baselines"],
    )
    return Record(name, opened, told)


def _table(place: Path) -> ResultsTable:
    with open(place / RESULTS_CSV, encoding="utf-8", newline="") as stream:
        rows = [
            {key: cell or None if key in TEXTS else parse_cell(cell) for key, cell in row.items()}
            for row in csv.DictReader(stream)
        ]
    return ResultsTable(tuple(rows[0]), tuple(rows))


def study_of(command: str) -> Study:
    """What a study's ``metascale run`` command asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--profile")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seeds")
    parser.add_argument("--no-baselines", action="store_true")
    given = parser.parse_args(shlex.split(command)[2:])
    values, seeds = _parse_values(given.set), _parse_seeds(given.seeds)
    return load_recipe(given.recipe).study(values, given.profile, seeds, not given.no_baselines)


# Parts of pages. ------------------------------------------------------------------------------------------------------


def finding(one: Record) -> list[Block]:
    """The answer, the law's verdict, and the numbers under it."""
    found = finding_of(one.study, one.contest)
    return [f"**{found.answer}**", found.verdict, Bullets(tuple(f"{k}: {v}" for k, v in laws.facts(one.study, found)))]


def scales(one: Record) -> list[Block]:
    return [laws.scales_table(laws.law_data(one.study), accuracy_data(one.study))]


def law(one: Record) -> list[Block]:
    """Parameters of the chosen laws, and all families."""
    chosen = [block for block in laws.law(one.study).blocks if isinstance(block, PageTable)]
    return [*chosen[:-1], *laws.families(one.study).blocks]


def baselines(one: Record) -> list[Block]:
    found = one.contest
    return [contest_table(found), *([comparisons_table(found)] if found.comparisons else [])]


def groups(one: Record) -> list[Block]:
    """Whether the series of a study with one further axis have one exponent."""
    roles = roles_of(one.study.view.study)
    (scale,), (series,) = roles.scales, roles.series
    rows = [row for row in one.table.finished().rows if row["kind"] in MAIN_KINDS]
    found = grouped(
        [row[scale] for row in rows],
        [row[roles.loss] for row in rows],
        [str(row[series]) for row in rows],
        x_name=scale,
        loss_name=roles.loss,
    )
    return [Code(found.summary())]


def differences(one: Record) -> list[Block]:
    """Losses of methods minus each other's at every scale, and where the sign changes."""
    found, scale = _contrasts(one)
    return [f"**{contrasts_answer(found, scale)}**", contrasts_table(found, scale)]


def weights(one: Record) -> list[Block]:
    """What the upper level learnt of right and of wrong labels."""
    roles = roles_of(one.study.view.study)
    (scale,), (series,) = roles.scales, roles.series
    rows = one.table.finished().rows
    return [weights_table(rows, scale=scale, series=series, words=axis_label(scale))]


def _contrasts(one: Record) -> tuple[list[Contrast], str]:
    """The contrasts of a study's recipe, and the scale in words."""
    study = one.study.view.study
    roles = roles_of(study)
    (scale,), (series,) = roles.scales, roles.series
    rows = [row for row in one.table.finished().rows if row["kind"] in MAIN_KINDS]
    pairs = CONTRASTS[study.base["recipe"]]
    return contrasts(rows, pairs, scale=scale, series=series, loss=roles.loss), axis_label(scale)


def accuracy(one: Record) -> list[Block]:
    """Test accuracy of every trained learner, with the 95 % interval that few-shot papers print."""
    rows = [row for row in one.table.finished().rows if row["kind"] in MAIN_KINDS]
    n_tasks = one.study.base["n_test_tasks"]
    said = []
    for row in rows:
        half = 1.96 * row["test_accuracy_sem"]
        chosen = ", chosen on validation tasks" if row["test_choice"] == "validation" else ""
        steps = f"{row['test_inner_steps']} inner steps at test{chosen}"
        said.append(
            f"**{100 * row['test_accuracy']:.2f} ± {100 * half:.2f} %** (mean and 95 % interval over {n_tasks:,} test "
            f"tasks, seed {row['seed']}; {row['test_loss_nats']:.4f} nats; {steps}) after {row['steps']:,} outer steps"
        )
    return [Bullets(tuple(said))]


def run(one: Record) -> list[Block]:
    """Where and when the study ran, and how long it took."""
    told, n = one.told, _n_trials(one)
    versions = ", ".join(f"{name} {' and '.join(found)}" for name, found in told["versions"].items() if found)
    took = f"{_counted(n)}, {format_seconds(told['trial_s'])} in all"
    took += f", {format_seconds(told['elapsed_s'])} from the first start to the last end" if told["elapsed_s"] else ""
    took += f", {format_seconds(told['cpu_s'])} of processor time" if told.get("cpu_s") else ""
    commits = [commit[:12] for commit in told.get("commits", [told["commit"]])]
    changed = " with uncommitted changes" if told["uncommitted"] else ""
    commit = f"commit{'s' if len(commits) > 1 else ''} {' and '.join(commits)}{changed}"
    where = f"{'; '.join(told['hardware'])}; {versions}; {commit}, {told['date']}"
    return [f"{took} ({where}). Record: [records/{one.name}](records/{one.name})."]


def _n_trials(one: Record) -> int:
    """Those of searches too, where the record says it."""
    return int(one.told.get("n_trials", len(one.study.runs)))


def _counted(n: int) -> str:
    return f"{n} {'trial' if n == 1 else 'trials'}"


def sentence(one: Record) -> list[Block]:
    """What README says of the demo."""
    found, best = finding_of(one.study, one.contest), one.contest.shown
    unit = one.contest.unit
    order = ", ".join(f"{row.name} {measured(row.loss)} {unit}".strip() for row in best[:4])
    return [f"{found.answer} Lowest losses: {order}."]


PARTS: dict[str, Callable[[Record], Sequence[Block]]] = {
    "accuracy": accuracy,
    "finding": finding,
    "scales": scales,
    "law": law,
    "extrapolation": lambda one: laws.extrapolation(one.study).blocks,
    "baselines": baselines,
    "differences": differences,
    "weights": weights,
    "convergence": lambda one: [block for block in convergence(one.study).blocks if isinstance(block, str)],
    "groups": groups,
    "diagnosis": lambda one: [one.told["diagnosis"]],
    "caveats": lambda one: laws.caveats(one.study).blocks,
    "run": run,
    "sentence": sentence,
    **arm_parts.PARTS,
    **factor_parts.PARTS,
    **memory_parts.PARTS,
    **size_parts.PARTS,
}


def markdown(blocks: Sequence[Block]) -> str:
    """Blocks of a report's page as Markdown, without pictures; a token such as <eos> is code, or it would be a tag."""
    parts = [
        re.sub(r"(?<!`)<(\w+)>(?!`)", r"`<\1>`", _markdown(block))
        for block in unfolded(blocks)
        if not isinstance(block, (Picture, Folded))
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, PageTable):
        heads = [column.title for column in block.columns]
        marks = ["---:" if column.numeric else "---" for column in block.columns]
        rows = [[_cell(cell.text, row.mark == "chosen") for cell in row.cells] for row in block.rows]
        lines = [f"| {' | '.join(line)} |" for line in (heads, marks, *rows)]
        return "\n".join([*([block.caption, ""] if block.caption else []), *lines])
    if isinstance(block, Bullets):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Pairs):
        return "\n".join(f"- {key}: {value}" for key, value in block.rows)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    assert isinstance(block, Note), type(block).__name__
    return block.text


def _cell(text: str, bold: bool) -> str:
    escaped = text.replace("|", "\\|")
    return f"**{escaped}**" if bold and escaped else escaped


def row_cells(one: Record) -> dict[str, str]:
    """The generated cells of a study's row in docs/results/README.md, by heading."""
    fitted = [f"{of(series)}{_law_words(found)}" for series, found in one.study.laws_by_series.items()]
    compared = one.study.view.study.base.get("recipe") in CONTRASTS
    answer = contrasts_answer(*_contrasts(one)) if compared else None
    for parts in (arm_parts, factor_parts, memory_parts, size_parts):
        answer = answer or parts.answer(one)
    answer = answer or finding_of(one.study, one.contest).answer
    return {
        "question": finding_of(one.study, one.contest).question,
        "answer": answer,
        "law with interval": size_parts.law_words(one) or "; ".join(fitted) or "none fitted",
        "budget": f"{_counted(_n_trials(one))}, {format_seconds(one.told['trial_s'])}",
        "command": f"`{one.told['command']}`",
    }


def _law_words(found: LawRecord) -> str:
    exponent = found.exponent
    if exponent is None or len(found.x_names) > 1:
        known = {name: part for name, part in found.parameters.items() if name in EXPONENTS}
        each = [f"{EXPONENTS[name]} = {measured(a.estimate)} {interval(a.low, a.high)}" for name, a in known.items()]
        return ", ".join([f"`{found.law}`", *each])
    return f"`{found.law}`, α = {measured(exponent.estimate)} {interval(exponent.low, exponent.high)}"


def rendered(text: str) -> str:
    """A page's text with its generated parts from the records."""

    def part(found: re.Match[str]) -> str:
        name, what = found[2], found[3]
        blocks = PARTS[what](open_record(name))
        return f"{found[1]}{markdown(blocks)}{found[5]}"

    heads = next((line for line in text.splitlines() if line.startswith("| study |")), "")
    places = [cell.strip() for cell in heads.strip("|").split("|")]

    def row(found: re.Match[str]) -> str:
        one = open_record(found[2])
        new, cells = row_cells(one), [cell.strip() for cell in found[1].split("|")]
        cells = [new.get(head, cell) for head, cell in zip(places, cells, strict=False)]
        return f"| {' | '.join(cells)} | [{one.name}](records/{one.name}) <!-- generated: {one.name}.row --> |"

    return ROW.sub(row, PART.sub(part, text))


def page_paths() -> list[Path]:
    """Pages that may have generated parts."""
    return [ROOT / "README.md", *sorted(RESULTS.glob("*.md"))]


def picture_paths() -> dict[tuple[str, str], Path]:
    """The pictures that pages show, by record and name."""
    shown = "".join(path.read_text(encoding="utf-8") for path in page_paths())
    files = {(name, what): f"{name}_{what}.png" for name in names() for what in size_parts.PICTURES}
    return {key: IMAGES / file for key, file in files.items() if f"/{file}" in shown}


def picture(name: str, what: str) -> bytes:
    """A picture of a record as a PNG file that says which record and matplotlib made it."""
    one = open_record(name)
    pictures = size_parts.PICTURES[what](one).pictures
    (found,) = pictures if what == "law" else [each for each in pictures if each.name == what]
    image = Image.open(io.BytesIO(png(found)))
    info = PngImagePlugin.PngInfo()
    info.add_text("record", one.digest)
    info.add_text("matplotlib", matplotlib.__version__)
    out = io.BytesIO()
    image.save(out, format="png", pnginfo=info, dpi=(150, 150))
    return out.getvalue()


def write_pages() -> list[Path]:
    """Write what has changed; its paths."""
    written = []
    for path in page_paths():
        old = path.read_text(encoding="utf-8")
        if (new := rendered(old)) != old:
            path.write_text(new, encoding="utf-8")
            written.append(path)
    for key, path in picture_paths().items():
        if (data := picture(*key)) != (path.read_bytes() if path.exists() else b""):
            path.write_bytes(data)
            written.append(path)
    return written


def refit(name: str) -> None:
    """Write the laws of a record as today's law room fits them to its table."""
    one = open_record(name)
    write_laws(one.study.folder, {series: thinned(law) for series, law in one.refitted().items()})


def again(name: str, *more: str) -> None:
    """Run a record's command in a new folder, and record it."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [*shlex.split(open_record(name).told["command"])[1:], "--out", f"{scratch}/study", *more]
        before = _cpu_of_children()
        subprocess.run([sys.executable, "-m", "metascale", *arguments], check=True)
        record(Path(scratch) / "study", name, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("record")
    one.add_argument("folder", type=Path)
    one.add_argument("name")
    one.add_argument("--cpu", type=float)
    verbs.add_parser("pages")
    verbs.add_parser("refit")
    verbs.add_parser("again").add_argument("names", nargs="*")
    given = parser.parse_args()
    if given.verb == "record":
        sys.stdout.write(f"{record(given.folder, given.name, given.cpu)}\n")
    for name in (given.names or names()) if given.verb == "again" else ():
        again(name)
    for name in names() if given.verb == "refit" else ():
        refit(name)
    if given.verb != "record":
        sys.stdout.write("".join(f"{path}\n" for path in write_pages()))


if __name__ == "__main__":
    main()
