"""What a study of model sizes concludes: planted exponents come back, and too few models get a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from metascale.core.errors import InputError
from metascale.laws.effects import width_and_depth
from metascale.laws.sizes import analyse_sizes, frontier, loss_law, perplexity_law, same_exponent
from metascale.recipes.model_size import conclude
from metascale.study import ResultsTable, Roles, Study, StudyView

WIDTHS, DEPTHS = (64, 128, 256, 512), (4, 8, 12, 16)


def row(architecture: str, d: int, n_layers: int, loss: float, seed: int = 42) -> dict[str, Any]:
    n = 12 * n_layers * d * d
    return {
        "architecture": architecture,
        "d_model": d,
        "n_layers": n_layers,
        "seed": seed,
        "n_params_non_embedding": n,
        "n_params_total": n + 20_000 * d,
        "train_flops": 6e6 * n,
        "test_loss_nats": loss,
        "test_perplexity": math.exp(loss),
        "n_vocab": 10_000,
        "unigram_test_perplexity": 448.0,
        "bigram_test_perplexity": 151.0,
    }


def table(
    exponents: dict[str, float],
    noise: float = 0.004,
    floor: float = 0.0,
    widths: tuple[int, ...] = WIDTHS,
    seed_of_noise: int = 5,
) -> list[dict[str, Any]]:
    """Losses floor + 9 · n^−exponent with seed noise, 2 seeds a configuration."""
    draw = np.random.default_rng(seed_of_noise)
    rows = []
    for architecture, exponent in exponents.items():
        for d in widths:
            for n_layers in DEPTHS[: 2 if len(widths) == 2 else 4]:
                for seed in (42, 43):
                    loss = floor + 9.0 * (12 * n_layers * d * d) ** -exponent
                    rows.append(row(architecture, d, n_layers, loss * math.exp(noise * draw.standard_normal()), seed))
    return rows


def test_the_sources_law_returns_its_own_numbers() -> None:
    """perplexity = 900 · params^−0.15 exactly: a, b and R² = 1."""
    rows = [row("transformer", d, 4, 1.0) for d in WIDTHS]
    for one in rows:
        one["test_perplexity"] = 900.0 * one["n_params_total"] ** -0.15
    found = perplexity_law(rows, "n_params_total")
    assert (found.a, found.b, found.r2) == pytest.approx((900.0, -0.15, 1.0), rel=1e-6)
    assert (found.n_runs, found.n_sizes) == (4, 4)


def test_the_sources_law_is_the_line_through_the_logarithms() -> None:
    rows = table({"transformer": 0.08})
    x = np.log([one["n_params_total"] for one in rows])
    y = np.log([one["test_perplexity"] for one in rows])
    slope, constant = np.polyfit(x, y, 1)
    r2 = np.corrcoef(x, y)[0, 1] ** 2
    found = perplexity_law(rows, "n_params_total")
    assert (found.a, found.b, found.r2) == pytest.approx((math.exp(constant), slope, r2), rel=1e-5)
    assert found.b_low < found.b < found.b_high < 0


def test_the_irreducible_loss_comes_back() -> None:
    found = loss_law(table({"transformer": 0.3}, noise=0.0005, floor=2.0), "n_params_non_embedding")
    laws = found["laws"]
    assert found["chosen"] == "power_irreducible"
    assert laws["power_irreducible"]["parameters"]["E"]["estimate"] == pytest.approx(2.0, abs=0.02)
    assert laws["power_irreducible"]["parameters"]["alpha"]["estimate"] == pytest.approx(0.3, abs=0.02)
    assert laws["power"]["parameters"]["alpha"]["estimate"] < 0.2, "without the floor the fall looks slower"


def test_exponents_that_are_equal_or_not() -> None:
    for_equal = [
        same_exponent(
            table({"a": 0.1, "b": 0.1}, seed_of_noise=number), "test_loss_nats", "power", "n_params_non_embedding"
        )
        for number in range(5)
    ]
    assert float(np.median([one["p_value"] for one in for_equal])) > 0.2, "a p-value is uniform where they are equal"
    assert for_equal[0]["shared"]["estimate"] == pytest.approx(0.1, abs=0.005)
    other = same_exponent(table({"a": 0.1, "b": 0.13}), "test_loss_nats", "power", "n_params_non_embedding")
    assert other["p_value"] < 0.01
    assert other["differences"]["b"]["estimate"] == pytest.approx(0.03, abs=0.005)
    assert other["differences"]["b"]["low"] > 0


def test_exponents_of_width_and_depth_come_back() -> None:
    width, depth = (np.array(axis, float) for axis in zip(*((d, n) for d in WIDTHS for n in DEPTHS), strict=True))
    found = width_and_depth(width, depth, 7.0 * width**-0.2 * depth**-0.05)
    wanted = {
        "width": 0.2, "depth": 0.05, "width_minus_depth": 0.15, "width_minus_depth_per_parameter": 0.05,
    }  # fmt: skip
    for name, value in wanted.items():
        effect = found.effects[name]
        assert (effect.estimate, effect.low, effect.high) == pytest.approx((value,) * 3, abs=1e-9)
    assert math.exp(found.log_coefficient) == pytest.approx(7.0)
    assert found.r2 == pytest.approx(1.0)
    assert (found.n_rows, found.n_points, found.freedom) == (16, 16, 13)


def test_the_interval_of_a_two_by_two_grid_by_hand() -> None:
    """Two seeds at four points. The exponent of width is the mean difference over ln 2, its error s/(√2 ln 2)."""
    logs = {(64, 4): (2.0, 2.02), (128, 4): (1.9, 1.91), (64, 8): (1.95, 1.97), (128, 8): (1.84, 1.87)}
    cells = [(d, n, y) for (d, n), pair in logs.items() for y in pair]
    d, n, y = (np.array(column, float) for column in zip(*cells, strict=True))
    found = width_and_depth(d, n, np.exp(y))
    narrow, wide = y[d == 64].mean(), y[d == 128].mean()
    exponent = (narrow - wide) / math.log(2)
    shallow, deep = y[n == 4].mean(), y[n == 8].mean()
    fitted = (
        y.mean() + (d == 128) * (wide - narrow) + (n == 8) * (deep - shallow) - (wide - narrow + deep - shallow) / 2
    )
    variance = float(np.sum((y - fitted) ** 2)) / 5
    error = float(student.ppf(0.975, 5)) * math.sqrt(variance * (1 / 4 + 1 / 4)) / math.log(2)
    effect = found.effects["width"]
    assert found.noise == "seeds and misfit"
    assert found.freedom == 5
    assert (effect.estimate, effect.high - effect.estimate) == pytest.approx((exponent, error))


def test_a_misfit_beyond_the_seeds_widens_the_interval() -> None:
    """Width helps deep models alone: the law does not fit, and its one degree of freedom decides."""
    logs = {(64, 4): 2.0, (128, 4): 2.0, (64, 8): 2.0, (128, 8): 1.6}
    cells = [(d, n, y + shift) for (d, n), y in logs.items() for shift in (0.0, 0.001)]
    d, n, y = (np.array(column, float) for column in zip(*cells, strict=True))
    found = width_and_depth(d, n, np.exp(y))
    assert (found.noise, found.freedom) == ("misfit", 1)
    assert found.effects["width"].low < 0 < found.effects["width"].high


def test_intervals_of_width_hold_as_often_as_they_say() -> None:
    draw = np.random.default_rng(11)
    d, n = (np.repeat(axis, 2) for axis in (np.array([64.0, 128, 64, 128]), np.array([4.0, 4, 8, 8])))
    held = 0
    for _ in range(400):
        loss = 7 * d**-0.1 * n**-0.02 * np.exp(0.01 * draw.standard_normal(8))
        effect = width_and_depth(d, n, loss).effects["width"]
        held += effect.low <= 0.1 <= effect.high
    assert 0.92 <= held / 400 <= 0.985


@pytest.mark.parametrize(
    ("width", "depth", "message"),
    [
        ([64, 64, 64, 64], [4, 8, 12, 16], "the effect of width needs at least 2 values of it, not 1"),
        ([64, 128, 256, 512], [8, 8, 8, 8], "the effect of depth"),
        ([64, 128, 256, 512], [4, 8, 16, 32], "grow in step"),
        ([64, 128, 64], [4, 4, 8], "3 parameters and the table 3 runs"),
    ],
)
def test_effects_that_no_table_can_tell_are_refused(width: list[int], depth: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        width_and_depth(width, depth, np.linspace(3, 2, len(width)))


def test_four_sizes_get_no_irreducible_loss() -> None:
    rows = table({"a": 0.3, "b": 0.3}, noise=0.0005, floor=2.0, widths=(64, 128))
    found = loss_law([one for one in rows if one["architecture"] == "a"], "n_params_non_embedding")
    assert found["laws"]["power_irreducible"]["parameters"] == {}
    assert "4 sizes cannot tell" in found["laws"]["power_irreducible"]["note"]
    with pytest.raises(InputError, match="4 sizes cannot tell an irreducible loss from a slope"):
        same_exponent(rows, "test_loss_nats", "power_irreducible", "n_params_non_embedding")


def test_the_frontier_leaves_out_what_a_cheaper_run_beats() -> None:
    points = [(4.0, 2.5), (1.0, 3.0), (2.0, 3.1), (3.0, 2.5), (2.5, 2.6)]
    rows = [{"train_flops": flops, "test_loss_nats": loss} for flops, loss in points]
    assert frontier(rows) == [[1.0, 3.0], [2.5, 2.6], [3.0, 2.5]]


def test_too_few_models_get_a_reason_instead_of_a_law() -> None:
    found = analyse_sizes([row("transformer", d, 4, 5.0 - 0.001 * d) for d in (64, 128)])
    assert "2 distinct values of 'n_params_total'" in found["perplexity_laws"][0]["reason"]
    assert "2 distinct values" in found["loss_laws"][0]["reason"]
    assert "there is 1 group" in found["grouped"][0]["reason"]
    assert "effect of depth" in found["width_and_depth"]["transformer"]["reason"]
    assert found["floors"] == {"unigram_test": 448.0, "bigram_test": 151.0}


@pytest.mark.long
def test_vocabularies_have_laws_and_floors_of_their_own(tmp_path: Path) -> None:
    """Once they were pooled as seeds, and the floor of the first stood for all."""
    rows = []
    for vocabulary, exponent, floor in ((500, 0.1, 60.0), (5000, 0.2, 300.0)):
        for one in table({"transformer": exponent}):
            own = {"vocabulary": vocabulary, "n_vocab": vocabulary, "bigram_test_perplexity": floor}
            rows.append({**one, **own, "kind": "trial", "status": "finished"})
    axes = {"architecture": ["transformer"], "d_model": WIDTHS, "n_layers": DEPTHS, "vocabulary": [500, 5000]}
    roles = Roles(("n_params_non_embedding",), ("architecture", "vocabulary"), loss="test_loss_nats")
    study = Study("model_size", "a.module:f", {}, axes, (42, 43), roles=roles)
    conclude(StudyView(tmp_path, study, ()), ResultsTable(tuple(rows[0]), tuple(rows)))
    found = json.loads((tmp_path / "size.json").read_text())
    laws = {one["architecture"]: one for one in found["loss_laws"] if one["x"] == "n_params_non_embedding"}
    alphas = {name: one["laws"]["power"]["parameters"]["alpha"]["estimate"] for name, one in laws.items()}
    expected = {"transformer, vocabulary 500": 0.1, "transformer, vocabulary 5000": 0.2}
    assert alphas == pytest.approx(expected, abs=0.01)
    assert "bigram_test" not in found["floors"], "no floor is shared"
    assert found["n_vocab"] is None
    baselines = json.loads((tmp_path / "baselines.json").read_text())
    losses = {name: one["test_loss_nats"] for name, one in baselines.items()}
    assert losses == pytest.approx({"bigram, vocabulary 500": math.log(60), "bigram, vocabulary 5000": math.log(300)})


def test_a_bigram_of_more_text_is_no_baseline_of_models_that_read_less(tmp_path: Path) -> None:
    """Sizes are those of all of the text; its bigram is not beside the models of a part."""
    rows = []
    for tokens, floor in ((1_000, 200.0), (3_000, 150.0)):
        for one in table({"transformer": 0.1}):
            own = {"n_train_tokens": tokens, "bigram_test_perplexity": floor}
            rows.append({**one, **own, "kind": "trial", "status": "finished"})
    roles = Roles(("n_params_non_embedding", "tokens"), ("architecture",), loss="test_loss_nats")
    study = Study("model_size", "a.module:f", {}, {"architecture": ["transformer"]}, (42, 43), roles=roles)
    (tmp_path / "baselines.json").write_text("{}")
    conclude(StudyView(tmp_path, study, ()), ResultsTable(tuple(rows[0]), tuple(rows)))
    found = json.loads((tmp_path / "size.json").read_text())
    assert (found["n_train_tokens"], found["floors"]["bigram_test"]) == (3_000, 150.0)
    assert not (tmp_path / "baselines.json").exists()
    conclude(StudyView(tmp_path, study, ()), ResultsTable(tuple(rows[0]), tuple(rows[-8:])))
    assert json.loads((tmp_path / "baselines.json").read_text())["bigram"]["test_loss_nats"] == math.log(150)
