from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from metascale.core.columns import LAW_JSON
from metascale.core.errors import InputError
from metascale.report import law_data, open_study, plot_study_law, write_report
from metascale.report.sections.law import law as law_section
from metascale.report.sections.law import law_finding
from metascale.report.sections.overview import trials
from metascale.report.style import SERIES, new_figure
from metascale.report.words import measured
from metascale.report.write import Drawn, View, render_page
from metascale.study.definition import load_definition, save_definition
from tests.report.study_fixture import SCALES, StudyBuilder, keep, make_study

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(html.parser.HTMLParser):
    """Reads a page strictly: every element that is opened is closed in order; ids are unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.loaded.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def written(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its report."""
    folder = Path(shutil.copytree(study_folder, tmp_path_factory.mktemp("written") / "digits"))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "report.html").read_text()


def test_report_writes_the_tree(written: Path) -> None:
    names = (
        "plots/law.png", "plots/accuracy.png", "plots/learning_curves.png", "plots/adaptation.png",
        "plots/baselines.png", "summary.json", "provenance.json", "report.html",
    )  # fmt: skip
    assert all((written / name).stat().st_size > 300 for name in names)
    assert {path.name for path in (written / "plots").iterdir()} == {Path(name).name for name in names[:5]}


@pytest.mark.long
def test_the_same_study_gives_the_same_bytes_wherever_it_lies(page: str, written: Path, own_study: Path) -> None:
    paths = write_report(own_study)
    assert (own_study / "report.html").read_text() == page
    assert all(path.read_bytes() == (written / path.relative_to(own_study)).read_bytes() for path in paths)


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(value.startswith("#") for value in parsed.loaded)
    assert {value[1:] for value in parsed.loaded} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(parsed.ids)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_page_answers_first(page: str) -> None:
    words = Page(page).text
    question = words.index("Does meta-test loss follow a power law in the number of training tasks?")
    answer = words.index(
        "Meta-test loss falls as the number of training tasks grows; exponent α = 0.160 [0.152, 0.168]"
    )
    assert question < answer < words.index("The law") < words.index("What was held fixed")


def test_page_holds_the_numbers_of_the_law(page: str, study_folder: Path) -> None:
    law = json.loads((study_folder / "law.json").read_text())
    for parameter in law["parameters"].values():
        for value in parameter.values():
            assert re.search(rf'data-key="{re.escape(str(value))}" [^>]*>{re.escape(measured(value))}</td>', page)
    for family in law["families"].values():
        assert f'data-key="{family["backtest_rmse_log"]}"' in page
    held_out = law["extrapolation"]
    assert f'data-key="{held_out["predicted"]}"' in page
    assert f'data-key="{held_out["observed"]}"' in page
    assert law["verdict"] in page
    assert all(note in page for note in law["notes"])


def test_page_lists_every_trial_and_why_some_failed(page: str, study_folder: Path) -> None:
    for run in open_study(study_folder).runs:
        assert run.label in page
    assert "loss became nan at outer step 137 (tasks train-1); last finite value 2.31" in page
    assert "the pool has 190 tasks, fewer than 200" in page
    assert "28 trials: 26 finished, 1 diverged, 1 failed." in page


def test_page_says_where_it_comes_from(page: str) -> None:
    words = Page(page).text
    for part in (
        "metascale run digits --seeds 0,1,2",
        "tests.report.study_fixture:trial",
        "CC BY 4.0 (UCI)",
        '"max_steps": 600',
    ):
        assert part in words


def test_page_works_without_script_and_escapes_text(own_study: Path) -> None:
    definition = load_definition(own_study)
    named = replace(definition.study, name="<b>x</b> & co")
    save_definition(own_study, replace(definition, study=named))
    study = open_study(own_study)
    text = render_page(study, [build(study) for build in (law_section, trials)])
    assert "<b>x</b>" not in text
    assert "&lt;b&gt;x&lt;/b&gt; &amp; co" in text
    without = re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    # Every read-out of a point is an SVG title: the browser shows it by itself.
    assert without.count('<g class="tip"><title>') > 2 * len(SCALES)
    assert "onclick" not in without


def test_dark_screens_and_paper_are_provided_for(page: str) -> None:
    css = page[page.index("<style>") : page.index("</style>")]
    assert "prefers-color-scheme: dark" in css
    assert "@media print" in css
    used = set(re.findall(r"var\((--[a-z0-9-]+)", page))
    dark = css[css.index("prefers-color-scheme") : css.index("* { box-sizing")]
    defined = set(re.findall(r"(--[a-z0-9-]+):", dark))
    assert used <= defined


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("place", [0, 1])
def test_text_colours_meet_the_contrast_of_wcag(page: str, place: int) -> None:
    css = page[page.index("<style>") : page.index("</style>")]
    block = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[place]
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))
    for name in ("ink", "soft", "accent", "warn"):
        assert contrast(colours[name], colours["paper"]) >= 4.5
    assert contrast(colours["warn"], colours["warn-paper"]) >= 4.5


def test_summary_is_for_programs(written: Path) -> None:
    summary = json.loads((written / "summary.json").read_text())
    law = json.loads((written / "law.json").read_text())
    assert summary["exponent"] == law["parameters"]["alpha"]
    assert summary["trend"] == "falls"
    assert summary["held_out"][0]["predicted"] == law["extrapolation"]["predicted"]
    assert [scale["x"] for scale in summary["scales"]] == list(SCALES)
    assert len(summary["comparisons"]) == 6
    assert summary["trials"] == {"finished": 26, "diverged": 1, "failed": 1}


def report_of(folder: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[list[str], str]:
    """The paths written and the words of the page; with ``monkeypatch`` without drawing, which takes the time."""
    if monkeypatch is not None:
        monkeypatch.setattr("metascale.report.write.png", lambda picture: b"")
        monkeypatch.setattr(
            "metascale.report.write.drawn",
            lambda picture: Drawn(picture.name, picture.caption, "", (View("", Markup("<svg/>"), Markup("<svg/>")),)),
        )
    names = [path.relative_to(folder).as_posix() for path in write_report(folder)]
    return names, Page((folder / "report.html").read_text()).text


def test_without_a_law_the_report_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path, scales=(5, 20))
    (folder / "law.json").unlink()
    names, words = report_of(folder, monkeypatch)
    assert "plots/law.png" in names
    assert "the 6 finished trials cover 2 values of training tasks N" in words


def test_a_scale_that_starts_at_zero_has_a_linear_axis_and_no_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = StudyBuilder(tmp_path, {"difficulty": [0, 2, 4]}, base={"kind": "meta", "method": "reptile"})
    for difficulty in (0, 2, 4):
        result = {"test_loss_nats": 1.0 + difficulty, "test_accuracy": 0.9}
        builder.run(f"d{difficulty}", {"difficulty": difficulty}, kind="meta", result=result)
    folder = builder.write()
    names, words = report_of(folder, monkeypatch)
    assert {"plots/law.png", "plots/accuracy.png"} <= set(names)
    assert "difficulty is not positive in every trial, and a law is fitted to logarithms" in words
    ax = plot_study_law(law_data(folder), Figure().subplots())
    assert (ax.get_xscale(), ax.get_xlabel()) == ("linear", "difficulty")


def test_without_baselines_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path, scales=(5, 10, 20), failures=False)
    (folder / "baselines.json").unlink()
    keep(folder, lambda trial: trial.kind == "meta")
    names, words = report_of(folder, monkeypatch)
    assert "Baselines are missing" in words
    assert "plots/baselines.png" in names


def test_only_failed_trials_still_give_a_report(own_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(own_study, lambda trial: trial.seed == 9)
    (own_study / "law.json").unlink()
    (own_study / "baselines.json").unlink()
    names, words = report_of(own_study, monkeypatch)
    assert names == ["plots/learning_curves.png", "summary.json", "provenance.json", "report.html"]
    assert "No answer yet: none of the 2 meta-learnt trials has finished with a loss." in words
    assert "last finite value 2.31" in words


def test_a_study_without_any_result_still_gives_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = StudyBuilder(tmp_path, {"n_tasks": [2, 5]}, base={"kind": "meta"})
    for n in (2, 5):
        builder.run(f"n{n}", {"n_tasks": n}, kind="meta", status="pending")
    names, words = report_of(builder.write(), monkeypatch)
    assert names == ["summary.json", "provenance.json", "report.html"]
    assert "2 trials: 2 pending." in words
    assert "none of the 2 meta-learnt trials has finished with a loss" in words
    keep(tmp_path, lambda trial: False)
    _, words = report_of(tmp_path, monkeypatch)
    assert "The study has no trials." in words


def test_one_seed_has_no_error_bar_across_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, words = report_of(make_study(tmp_path, seeds=(0,), failures=False), monkeypatch)
    assert "No error bar across seeds at N = 2, 5, 10, 20, 50, 100, 200: one finished seed there." in words
    assert "one seed each, so there is no error bar across seeds" in words


def test_another_axis_is_named_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, words = report_of(make_study(tmp_path, scales=(16, 32, 64, 128), x_name="width"), monkeypatch)
    assert "Meta-test loss falls as width grows" in words
    assert "n_tasks" not in words
    assert "N = " not in words.replace("\u00a0", " ")


def two_series(folder: Path) -> Path:
    """Two learners, the second 4 % worse, and a law for each, as the study's conclusion writes them."""
    one = make_study(folder / "one", scales=(5, 20, 50, 100), failures=False)
    builder = StudyBuilder(folder / "two", {"method": ["maml", "fomaml"], "n_tasks": [5, 20, 50, 100]}, seeds=(0, 1, 2))
    for run in open_study(one).main:
        for method, factor in (("maml", 1.0), ("fomaml", 1.04)):
            result = {**(run.run.result() or {}), "test_loss_nats": factor * (run.number("test_loss_nats") or 0.0)}
            sets = {"method": method, "n_tasks": run.cells["n_tasks"]}
            builder.run(f"{method}-{run.label}", sets, run.seed, kind="meta", result=result)
    builder.write()
    law = json.loads((one / LAW_JSON).read_text())
    steeper = {**law, "parameters": {**law["parameters"], "alpha": {"estimate": 0.17, "low": 0.16, "high": 0.18}}}
    (folder / "two" / LAW_JSON).write_text(json.dumps(law))
    (folder / "two" / "laws.json").write_text(json.dumps({"method=maml": law, "method=fomaml": steeper}))
    return folder / "two"


def test_several_series_have_a_law_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = two_series(tmp_path)
    table = law_data(folder)
    assert list(table.laws) == ["MAML", "first-order MAML"]
    _, (ax,) = new_figure(8, 4.8)
    plot_study_law(table, ax)
    curves = [line.get_color() for line in ax.lines if str(line.get_label()).startswith("law ")]
    assert curves == [SERIES[0], SERIES[1]]
    _, words = report_of(folder, monkeypatch)
    assert "MAML falls, α = 0.160 [0.152, 0.168]; first-order MAML falls, α = 0.170 [0.160, 0.180]" in words
    summary = json.loads((folder / "summary.json").read_text())
    assert [law["exponent"]["estimate"] for law in summary["laws"]] == [0.16, 0.17]


def test_exponents_of_different_laws_are_not_set_side_by_side(tmp_path: Path) -> None:
    folder = two_series(tmp_path)
    laws = json.loads((folder / "laws.json").read_text())
    laws["method=fomaml"]["law"] = "power_irreducible"
    (folder / "laws.json").write_text(json.dumps(laws))
    found = law_finding(open_study(folder))
    assert found.answer.endswith(
        "MAML falls, α = 0.160 [0.152, 0.168] (power); first-order MAML falls, α = 0.170 [0.160, 0.180] (power "
        "irreducible). Exponents of different laws do not compare."
    )
    assert found.title == "Meta-test loss: MAML falls, first-order MAML falls"


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a study folder"):
        write_report(tmp_path / "nowhere")


def test_importing_the_report_loads_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, metascale.report; "
        "print([name for name in ('torch', 'transformers', 'matplotlib.pyplot') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
