"""Around the results: what is missing, what was held fixed, every trial, where it comes from, and the page's words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metascale.report import style
from metascale.report.section import Bullets, Code, Folded, Pairs, Picture, Section, of, series_key, signed, table
from metascale.report.sections.checks import NO_CAUSE, cause_of
from metascale.report.sections.overview import held_fixed, missing, missing_data, trials
from metascale.report.sections.provenance import (
    Provenance,
    Source,
    changes_table,
    data_table,
    gather,
    packages_table,
    provenance,
    provenance_pairs,
    reproduce,
)
from metascale.report.study import Point, ReportStudy, cut_short, open_study, sem_column, stopped_by_patience, unit_of
from metascale.report.style import styled
from metascale.report.words import (
    axis_label,
    method_label,
    p_words,
    percent,
    scale_words,
    seed_words,
    value_words,
)
from metascale.report.write import drawn, figure_of, finding_of, summarise
from metascale.study.store.claims import CLAIM
from tests.report.described import axes, frame, told
from tests.report.study_fixture import StudyBuilder, run_row, write_csv, write_json


@pytest.fixture
def study(tmp_path: Path) -> ReportStudy:
    """Three finished runs, of which one seed alone at N = 40; one failed, one diverged, one running, one to come."""
    base = {"method": "maml", "recipe": "digits", "n_way": 5, "budget": "steps", "max_steps": 100, "visits_per_task": 3}
    base |= {"labels": None, "adapt": ["*"], "clip": True, "width": 1500}
    builder = StudyBuilder(tmp_path, {"n_tasks": [10, 40]}, base=base, seeds=(0, 1))
    for label, n, seed, loss in (("a", 10, 0, 1.0), ("b", 10, 1, 2.0), ("c", 40, 0, 0.5)):
        result = {"test_loss_nats": loss, "test_loss_sem_nats": 0.1, "best_step": 50, "steps": 100}
        run = builder.run(label, {"n_tasks": n}, seed, kind="meta", result=result, wall_s=1.5)
        write_csv(run / "eval_stats.csv", [{"step": 0, "validation_loss_nats": 1.0}])
    builder.run("d", {"n_tasks": 40}, 1, kind="meta", status="failed", message="RuntimeError: full")
    builder.run("e", {"n_tasks": 40}, 2, kind="meta", status="diverged", message="nan at step 3")
    builder.run("f", {"n_tasks": 40}, 3, kind="meta", status="running")
    builder.run("g", {"n_tasks": 40}, 4, kind="meta", status="pending")
    builder.write()
    write_json(tmp_path / "test_pool.json", {"split": {"train": [1, 2, 3], "validation": [4], "test": [5, 6]}})
    return open_study(tmp_path)


def test_what_is_missing_and_why(study: ReportStudy) -> None:
    found = (
        "The law is missing: no law was fitted (law.json is absent); the 3 finished trials cover 2 values of training "
        "tasks N, and a law needs more values than it has parameters.",
        "Baselines are missing: the study has no baseline trials.",
        "2 of 7 meta-learnt trials diverged or failed and are not in the law.",
        "2 trials have not ended yet: the numbers will change.",
        "No error bar across seeds at N = 40: one finished seed there.",
        "Accuracy is missing: results.csv has no test_accuracy (a regression study has none).",
        "The adaptation plot is missing: no run folder has adaptation.csv.",
    )
    assert missing_data(study) == found
    section = missing(study)
    assert (section.id, section.title, section.mark) == ("missing", "What is missing, and why", "missing")
    assert section.blocks == (Bullets(found),)
    assert section.data == {"missing": found}
    for path in study.folder.glob("runs/*/eval_stats.csv"):
        path.unlink()
    assert "Learning curves are missing: no run folder has eval_stats.csv." in missing_data(open_study(study.folder))


def test_what_was_held_fixed(study: ReportStudy) -> None:
    """First what a reader asks first; without a value, and of the budget not chosen, it goes to the others."""
    section = held_fixed(study)
    assert (section.id, section.title) == ("fixed", "What was held fixed")
    first, folded = section.blocks
    assert first == Pairs((
        ("recipe", "digits"), ("budget", "steps"), ("max_steps", "100"), ("method", "maml"), ("n_way", "5"),
        ("class split", "3 train / 1 validation / 2 test"),
    ))  # fmt: skip
    others = (("adapt", "*"), ("clip", "yes"), ("labels", "none"), ("visits_per_task", "3"), ("width", "1,500"))
    assert folded == Folded("5 more settings", (Pairs(others),), open=False)


def test_by_visits_the_number_of_steps_is_idle(tmp_path: Path) -> None:
    base = {"budget": "visits", "max_steps": 100, "visits_per_task": 3}
    first, folded = held_fixed(open_study(StudyBuilder(tmp_path / "a", {"n": [1, 2]}, base=base).write())).blocks
    assert first == Pairs((("budget", "visits"), ("visits_per_task", "3")))
    assert folded == Folded("1 more setting", (Pairs((("max_steps", "100"),)),))
    (only,) = held_fixed(open_study(StudyBuilder(tmp_path / "b", {"n": [1, 2]}, base={"x": 1}).write())).blocks
    assert only == Folded("1 more setting", (Pairs((("x", "1"),)),), open=True)


def test_every_trial_and_why_some_did_not_finish(study: ReportStudy) -> None:
    section = trials(study)
    sentence, reasons, folded = section.blocks
    assert (section.id, section.title) == ("trials", "Trials")
    counts = {"finished": 3, "failed": 1, "diverged": 1, "running": 1, "pending": 1}
    assert section.data == {"trials": counts}
    assert sentence == "7 trials: 3 finished, 1 failed, 1 diverged, 1 running, 1 pending."
    assert reasons.caption == "Trials that did not finish; none of them is in the law."  # type: ignore[union-attr]
    assert told(reasons) == [  # type: ignore[arg-type]
        "trial | status | reason",
        "failed: N = 40, seed 1 [d] | failed | RuntimeError: full",
        "diverged: N = 40, seed 2 [e] | diverged | nan at step 3",
        "N = 40, seed 3 [f] | running | no reason was recorded",
        "N = 40, seed 4 [g] | pending | no reason was recorded",
    ]
    assert isinstance(folded, Folded)
    assert (folded.title, folded.open) == ("All 7 trials", True)
    (every,) = folded.blocks
    assert every.caption == "Every trial of results.csv."  # type: ignore[union-attr]
    heads, first, *_, failed, _, _, pending = told(every)  # type: ignore[arg-type]
    assert heads == "method | status | #N | #seed | #loss | #SE across tasks | #kept step | #steps | #wall s"
    assert first == "MAML [a] | finished | 10 {10} | 0 {0} | 1.00 {1} | 0.100 {0.1} | 50 {50} | 100 {100} | 1.50 {1.5}"
    assert failed == "failed: MAML [d] | failed | 40 {40} | 1 {1} | – | – | – | – | –"
    assert pending == "MAML [g] | pending | 40 {40} | 4 {4} | – | – | – | – | –"


def test_many_trials_are_folded_away(study: ReportStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.report.sections.overview._LONG", 6)
    (folded,) = (block for block in trials(study).blocks if isinstance(block, Folded))
    assert not folded.open
    assert (study.folder / "runs").is_dir()
    assert sum((run.run.folder / CLAIM).exists() for run in study.runs) == 1


ORIGIN = {
    "metascale": "0.1.0", "python": "3.11.2", "packages": {"torch": "2.5.1+cpu", "numpy": "2.1.0", "zlib": "1"},
    "hardware": {"processor": "Zen", "cores_usable": 2, "memory_bytes": 8 * 2**30, "gpus": ["H200"]},
    "threads": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1}, "device": "cpu",
    "data_sha256": {"digits.csv": "abc"},
    "sources": [{"module": "metascale", "revision": "0123456789abcdef", "changed_files": ["a.py", "b.py"],
                 "diff_sha256": "fedcba9876543210"}],
}  # fmt: skip


@pytest.fixture
def recorded(study: ReportStudy) -> ReportStudy:
    """The same with the place of two of its runs, the second with another torch and another file."""
    other = {**ORIGIN, "packages": {**ORIGIN["packages"], "torch": "2.6.0"}, "data_sha256": {"digits.csv": "xyz"}}
    for name, origin in (("a", ORIGIN), ("b", other)):
        (run,) = (run for run in study.runs if run.label == name)
        write_json(run.run.folder / "provenance.json", origin)
    diff = "--- a\n+++ b\n+one\n+two\n-three\n same\n"
    start = {"command": "metascale run digits", "sources": [{"diff_sha256": "fedcba9876543210", "diff": diff}]}
    (study.folder / "provenance.jsonl").write_text(json.dumps(start) + "\n")
    write_json(study.folder / "command.json", {"command": "metascale run digits --seeds 0,1", "question": "why?"})
    pool = {"data": "digits", "details": {"source": "UCI", "licence": "CC"}}
    write_json(study.folder / "test_pool.json", pool)
    return open_study(study.folder)


def test_where_a_study_comes_from(recorded: ReportStudy) -> None:
    """Two lines were added and one removed: the two heads of the difference do not count."""
    found = gather(recorded)
    assert found == Provenance(
        commands=("metascale run digits --seeds 0,1", "metascale run digits"),
        packages={"metascale": ("0.1.0",), "numpy": ("2.1.0",), "python": ("3.11.2",), "torch": ("2.5.1+cpu", "2.6.0"),
                  "zlib": ("1",)},
        sources=(Source("metascale", "0123456789abcdef", ("a.py", "b.py"), 2, 1, "fedcba9876543210"),),
        hardware=("Zen, 2 cores, 8 GiB, H200",),
        threads=("MKL_NUM_THREADS=1 OMP_NUM_THREADS=1",),
        devices=("cpu",),
        seeds=(0, 1, 2, 3, 4),
        data_sha256={"digits.csv": ("abc", "xyz")},
        n_recorded=2,
        n_runs=7,
    )  # fmt: skip
    assert found.notes == (
        "Uncommitted code: the revision alone does not give these numbers.",
        "Versions changed between trials: torch.",
        "Data files changed between trials.",
        "5 of 7 runs recorded nothing of this.",
    )
    assert reproduce(recorded, found) == (
        "git checkout 0123456789abcdef",
        "pip install torch==2.6.0 numpy==2.1.0",
        "export MKL_NUM_THREADS=1 OMP_NUM_THREADS=1",
        "metascale run digits --seeds 0,1 --out runs/again",
    )
    assert provenance_pairs(recorded, found) == (
        ("command", "metascale run digits --seeds 0,1; metascale run digits"),
        ("trial function", "tests.report.study_fixture:trial"),
        ("axes", "n_tasks: 10, 40"),
        ("seeds", "0, 1"),
        ("versions", "metascale 0.1.0, python 3.11.2, torch 2.5.1+cpu and 2.6.0, numpy 2.1.0"),
        ("code", "metascale at 0123456789ab with uncommitted changes in 2 files, +2 −1 lines"),
        ("hardware", "Zen, 2 cores, 8 GiB, H200"),
        ("threads", "1 (MKL, OMP)"),
        ("devices", "cpu"),
        ("data", "digits"),
        ("data source", "UCI"),
        ("what was read", "not recorded"),
        ("data licence", "CC"),
    )
    changes = changes_table(found.sources)
    assert changes.caption == (
        "metascale: 2 lines added, 1 removed. The text of the differences is in the study's provenance.jsonl."
    )
    assert told(changes) == [
        "file | code of | on top of | SHA-256 of the difference",
        "a.py | metascale | 0123456789ab | fedcba987654",
        "b.py | metascale | 0123456789ab | fedcba987654",
    ]
    assert packages_table(found).caption == "Versions of what was installed."
    assert told(packages_table(found))[::4] == ["package | version", "torch | 2.5.1+cpu, 2.6.0"]
    assert (data_table(found).caption, told(data_table(found))) == (
        "Data files that were there.", ["file | SHA-256", "digits.csv | abc, xyz"],
    )  # fmt: skip


def test_the_section_of_where_it_comes_from(recorded: ReportStudy) -> None:
    section = provenance(recorded)
    assert (section.id, section.title) == ("provenance", "Where this comes from")
    pairs, notes, code, *folded = section.blocks
    assert isinstance(pairs, Pairs)
    assert isinstance(notes, Bullets)
    assert isinstance(code, Code)
    assert code.title == "The same study again"
    assert code.text.splitlines()[-1].endswith("--out runs/again")
    assert [block.title for block in folded if isinstance(block, Folded)] == [
        "2 uncommitted files", "5 installed packages", "1 data files", "The whole configuration",
    ]  # fmt: skip
    whole = folded[-1].blocks[0].text  # type: ignore[union-attr]
    assert json.loads(whole)["question"] == "why?"
    assert "trials" not in json.loads(whole)
    assert whole.startswith('{\n  "')


def test_a_study_without_a_command_is_run_again_in_python(study: ReportStudy) -> None:
    design = study.view.study
    first, second = reproduce(study, gather(study))
    assert first == "from metascale.study import Study, run_study"
    assert second.startswith("run_study(Study('study', 'tests.report.study_fixture:trial', {")
    assert second.endswith("'runs/again')")
    assert repr(dict(design.axes)) in second


def test_the_notes_of_mixed_places() -> None:
    clean = Source("m", "r", (), None, None, None)
    found = Provenance((), {}, (clean,), ("a",), ("t",), (), (), {}, 2, 2)
    assert found.notes == ()
    mixed = "Trials ran with different processors or thread counts, which changes the last bits of sums."
    assert replace(found, hardware=("a", "b")).notes == replace(found, threads=("t", "u")).notes == (mixed,)
    assert replace(found, sources=(clean, replace(clean, revision="s"))).notes == ("The code changed between trials.",)
    assert replace(found, sources=(clean, replace(clean, module="n"))).notes == ()
    assert replace(found, n_recorded=0).notes == ()


def test_every_name_is_written_as_papers_do() -> None:
    """What has no word of its own has spaces for underscores."""
    axes_in_words = {
        "n_tasks": "training tasks N", "n_params_trainable": "trainable parameters", "lora_r": "LoRA rank r",
        "rank": "LoRA rank r", "n_train_classes": "training classes", "k_shot": "support examples a class",
        "inner_steps": "inner steps K", "n_way": "classes a task", "meta_batch": "tasks a meta-batch", "width": "width",
        "depth": "depth", "n_params_non_embedding": "non-embedding parameters", "n_params_total": "parameters",
        "train_flops": "training FLOPs", "n_train": "training examples", "n_clean": "clean texts",
    }  # fmt: skip
    methods_in_words = {
        "reptile": "Reptile", "maml": "MAML", "fomaml": "first-order MAML", "first_order_maml": "first-order MAML",
        "meta_sgd": "Meta-SGD", "anil": "ANIL", "imaml": "iMAML", "protonet": "ProtoNet", "r2d2": "R2-D2 (ridge)",
        "metaoptnet": "MetaOptNet (SVM)", "melora": "MELoRA, exact", "melora_gauss_newton": "MELoRA, Gauss-Newton",
        "melora_block_diagonal": "MELoRA, block diagonal", "melora_diagonal": "MELoRA, diagonal",
        "melora_finite_difference": "MELoRA, finite difference", "sama": "SAMA", "reweight": "reweighted",
        "reweight_correct": "reweighted and corrected", "reweight_both": "reweighted beside clean",
        "then": "weak, then clean", "el2n": "EL2N", "fine_tuning": "fine-tuning", "prototypes": "prototypes",
        "linear_probe": "linear probe", "zero_shot": "zero-shot", "class_prior": "class prior",
        "resnet_bk": "ResNet-BK",        "transformer": "Transformer",
    }  # fmt: skip
    assert {name: axis_label(name) for name in axes_in_words} == axes_in_words
    assert {name: method_label(name) for name in methods_in_words} == methods_in_words
    assert (axis_label("my_axis"), method_label("my_method")) == ("my axis", "my method")


def test_small_words() -> None:
    assert [percent(value) for value in (0.1234, -0.05, None)] == ["12.3 %", "−5.0 %", "–"]
    assert percent(0.1234, 0) == "12 %"
    assert [p_words(p) for p in (0.0009, 0.001, 0.04321)] == ["< 0.001", "0.001", "0.043"]
    assert (scale_words("n_tasks", 1500.0), scale_words("my_axis", 2.5)) == (
        "N\u00a0=\u00a01,500",
        "my axis\u00a0=\u00a02.5",
    )
    assert (seed_words(None), seed_words(3)) == ("no seed", "seed 3")
    assert [value_words(value) for value in (True, False, None, [1, "a"], (0.5, None), 12345, "x")] == [
        "yes", "no", "none", "1, a", "0.5, none", "12,345", "x",
    ]  # fmt: skip
    assert [signed(value) for value in (0.5, 0.0, -0.25)] == ["+0.500", "0", "−0.250"]
    assert (of("a"), of("")) == ("a. ", "")
    assert series_key(["a"]) == ""
    assert series_key(["mine", "b", "c", "d", "e", "f"]) == (
        " Blue: mine; red: b; green: c; purple: d; orange: e; sky blue: f."
    )
    assert told(table("", ("a", "b", "c"), [("x", "", "1"), ("y", "–", "2")])) == ["a | #c", "x | 1", "y | 2"]


def test_columns_name_their_unit_and_error() -> None:
    assert [unit_of(name) for name in ("test_loss_nats", "wall_s", "test_mse", "accuracy")] == ["nats", "s", "MSE", ""]
    assert [sem_column(name) for name in ("test_loss_nats", "test_mse", "test_accuracy")] == [
        "test_loss_sem_nats", "test_sem_mse", "test_accuracy_sem",
    ]  # fmt: skip


def test_patience_is_what_ended_half_of_the_runs() -> None:
    assert [cut_short(run_row(best_step=best, steps=5), False) for best in (4, 5)] == [False, True]
    assert not cut_short(run_row(best_step=0, steps=0), False)
    capped = run_row(best_step=1, steps=5, training="max_steps")
    assert (cut_short(capped, False), cut_short(capped, True)) == (False, True)
    assert not stopped_by_patience([])


def test_a_study_whose_baselines_are_beaten_says_it_after_the_answer(study: ReportStudy) -> None:
    found = finding_of(study)
    assert found.parts == (found.answer,)
    summary = summarise(study, (Section("x", "X", data={"more": 1}),))
    assert summary["more"] == 1
    assert (summary["format"], summary["study"], summary["trend"], summary["level"]) == (1, "study", "unknown", 0.95)
    assert (summary["verdict"], summary["cautions"], summary["exponent"]) == (None, [], None)
    assert (summary["question"], summary["answer"]) == (found.question, found.answer)


def test_pictures_stand_side_by_side_or_below_one_another() -> None:
    """Wide: 8 inches, one loss axis for both; narrow: 3.9 wide, and 3.4 high for each part."""

    def draw(ax: Axes, compact: bool) -> Axes:
        ax.plot([1, 2], [1, 2])
        return style.finish(ax, "what was found", "x", "test loss (nats)", compact)

    picture = Picture("p", "c", (draw, draw))
    with styled():
        wide, narrow = figure_of(picture, compact=False), figure_of(picture, compact=True)
        same = figure_of(replace(picture, same_y=True), compact=False)
        low = figure_of(replace(picture, height_in=2.0, draws=(draw,)), compact=True)
    assert [tuple(each.get_size_inches()) for each in (wide, narrow, low)] == [(8, 4.8), (3.9, 6.8), (3.9, 2.0)]
    assert [ax.get_ylabel() for ax in wide.axes] == ["loss (nats)", ""]
    assert [ax.get_ylabel() for ax in same.axes] == ["test loss (nats)", ""]
    assert [ax.get_ylabel() for ax in narrow.axes] == ["test loss (nats)"] * 2
    assert [ax.get_subplotspec().get_gridspec().ncols for ax in (wide.axes[0], narrow.axes[0])] == [2, 1]  # type: ignore[union-attr]
    alone = drawn(replace(picture, draws=(draw,)))
    assert (alone.name, alone.caption, alone.finding, len(alone.views)) == ("p", "c", "what was found", 1)
    assert "what was found" not in alone.views[0].wide, "it is the page's heading"
    both = drawn(picture)
    assert both.finding == ""
    assert "what was found" in both.views[0].wide
    named = drawn(replace(picture, on_page=(("log", draw), ("linear", draw))))
    assert [view.name for view in named.views] == ["log", "linear"]
    assert 'id="p-1-narrow-' in named.views[1].narrow
    assert 'id="p-0-wide-' in named.views[0].wide


def test_the_look_of_finished_axes() -> None:
    with styled():
        ax = style.finish(axes(), "a = 1 [2, 3]", "x", "y", False)
        narrow = style.finish(axes(), "f", "x", "y", True)
    assert frame(ax)["title"] == "a = 1 [2, 3]"
    assert ax.get_title(loc="left") == "a\u00a0=\u00a01 [2,\u00a03]"
    sizes = [
        (each.xaxis.label.get_fontsize(), each.yaxis.label.get_fontsize(), each._left_title.get_fontsize())  # type: ignore[attr-defined]
        for each in (ax, narrow)
    ]
    assert sizes == [(10, 10, 12), (9, 9, 10)]
    assert [each.xaxis.get_ticklabels()[0].get_fontsize() for each in (ax, narrow)] == [9.5, 8.5]
    assert ax._left_title.get_weight() == "bold"  # type: ignore[attr-defined]
    assert [line.get_visible() for line in (ax.get_ygridlines()[0], ax.get_xgridlines()[0])] == [True, False]
    empty = style.nothing(Figure().subplots(), "no run")
    (text,) = empty.texts
    assert (text.get_text(), text.get_position(), text.get_ha(), text.get_va()) == (
        "no run",
        (0.5, 0.5),
        "center",
        "center",
    )
    assert (text.get_color(), empty.axison, text.get_transform() == empty.transAxes) == (style.SOFT, False, True)


def test_ticks_of_steps_are_whole_where_three_fit() -> None:
    ax = axes()
    ax.set_xlim(0, 2)
    style.step_ticks(ax, compact=False)
    assert frame(ax)["x ticks"] == "0 1 2"
    ax.set_xlim(0, 0.5)
    style.step_ticks(ax, compact=True)
    assert all("." in text or text == "0" for text in str(frame(ax)["x ticks"]).split())


def test_labels_without_room_are_left_out_and_the_ends_stay() -> None:
    ax = axes(2.0, 2.0)
    ax.set_xlim(0, 4)
    places, texts = [0.0, 1.0, 2.0, 3.0, 4.0], ["first one", "second", "third", "fourth", "the last"]
    assert style.spaced(ax, places, texts, 9.5) == ["first one", "", "third", "", "the last"]
    wide = axes(12.0, 2.0)
    wide.set_xlim(0, 4)
    assert style.spaced(wide, places, texts, 9.5) == texts


def test_heights_of_labels_keep_them_apart() -> None:
    """Two labels of heights 0.2 and 0.4 have middles 0.3 apart; what does not fit starts at the low end."""
    assert style.spread([0.5, 0.5], [0.2, 0.4], 0, 1) == pytest.approx([0.35, 0.65])
    assert style.spread([0.9, 0.95], 0.3, 0, 1) == pytest.approx([0.7, 1.0])
    assert style.spread([], 0.1, 0, 1) == []


def test_colours_of_a_page_are_variables() -> None:
    assert list(style.VARIABLES.values()) == [
        "--ink", "--soft", "--muted", "--grid", "--paper", *(f"--series-{k}" for k in range(6)),
        *(f"--ramp-{k}" for k in range(7)),
    ]  # fmt: skip
    assert len(set(style.VARIABLES)) == 18


def test_seeds_disagree_beside_the_other_points_of_several_seeds() -> None:
    """Spreads of ln loss over √2: 0.4 beside 0.1, four times; a point of one seed has none and does not count."""

    def point(name: str, *logs: float) -> Point:
        runs = tuple(run_row(seed, best_step=1, steps=5) for seed in range(len(logs)))
        return Point("s", name, {}, 1.0, tuple(math.exp(log) for log in logs), runs)

    odd = point("odd", 0.0, 0.4)
    others = [point("even", 0.0, 0.1), point("alone", 0.0), point("alone too", 0.0)]
    assert cause_of(odd, 0.1, [*others, odd]) == "seeds disagree: 4.0 times the usual spread"
    assert cause_of(point("less", 0.0, 0.3), 0.1, [*others, odd]) == NO_CAUSE, "three times is not more than three"
    assert cause_of(odd, 0.1, [odd]) == NO_CAUSE


def test_a_run_s_place_is_told_on_the_axes_that_vary_besides_scale_and_method(tmp_path: Path) -> None:
    axes = {"n_tasks": [10, 40], "method": ["maml", "reptile"], "width": [8], "task.rate": [0.1, 0.5]}
    builder = StudyBuilder(tmp_path, axes)
    sets = {"n_tasks": 10, "method": "maml", "width": 8, "task.rate": 0.5}
    builder.run("a", sets, 3, kind="meta", result={"test_loss_nats": 1.0})
    builder.run("b", {**sets, "method": "reptile"}, 3, kind="meta", result={"test_loss_nats": 1.0})
    builder.run("search-7", sets, 3, kind="tuning", result={"validation_loss_nats": 1.0})
    study = open_study(builder.write())
    first, _, searched = study.runs
    assert study.place(first) == "rate 0.5"
    assert study.name_of(first) == "MAML, rate 0.5, N\u00a0=\u00a010, seed 3"
    assert study.place(searched) == "rate 0.5, search 7"
    assert study.name_of(searched) == "MAML, rate 0.5, search 7, N\u00a0=\u00a010"


def test_the_loss_of_a_study_without_roles_is_its_column_without_the_error(tmp_path: Path) -> None:
    builder = StudyBuilder(tmp_path, {"n": [1, 2]})
    builder.run("a", {"n": 1}, result={"test_loss_mse": 1.0, "test_loss_sem_mse": 0.1, "other_loss": 2.0})
    study = open_study(builder.write())
    assert (study.loss_name, study.unit, study.loss_words, study.loss_label) == (
        "test_loss_mse", "MSE", "test loss", "test loss (MSE)",
    )  # fmt: skip
    assert (study.x_name, study.scaled, study.level, study.name) == ("n", True, 0.95, "study")
