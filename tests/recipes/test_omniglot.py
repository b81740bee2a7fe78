"""The study of growing few-shot networks: its meta-gradients, its scale, and a short run on the real drawings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.hypergrad.linear import CG, Identity
from metascale.meta.gradients import MAML
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.multi_step import MultiStepMAML
from metascale.models.convnet import ConvNet
from metascale.workflow.fewshot import make_gradient, trial
from metascale.workflow.recipe import load_recipe

RECIPE = load_recipe("omniglot")


def gradient_of(values: dict[str, Any], profile: str = "width") -> Any:
    study = RECIPE.study({"filters": 8, **values}, profile, [0])
    return make_gradient(RECIPE.validate(study.trials()[0].config))


def test_no_iterations_of_conjugate_gradients_are_the_identity() -> None:
    default = gradient_of({})
    assert isinstance(default, ImplicitMAML)
    assert default.solver == Identity(measure=False)
    assert gradient_of({"cg_steps": 7}).solver == CG(7)
    assert isinstance(gradient_of({}, "width-maml"), MAML)


def test_the_identity_needs_no_second_derivatives_of_attention() -> None:
    fields = {"method": "imaml", "backbone": "gpt2"}
    banking = load_recipe("banking77")
    banking.study({**fields, "cg_steps": 0})
    for more in ({"cg_steps": 5}, {"cg_steps": 0, "adapt": ["head*"]}):
        with pytest.raises(InputError, match="needs second derivatives"):
            banking.study({**fields, **more})


def test_the_law_runs_along_the_measured_parameters() -> None:
    roles = RECIPE.study(profile="width").roles
    assert roles is not None
    assert (roles.scales, roles.series, roles.loss) == (("n_params_trainable",), (), "test_loss_nats")
    both = RECIPE.study({"filters": [8, 16]}).roles
    assert both is not None
    assert (both.scales, both.series, both.crossed) == (("n_tasks",), ("filters",), ("filters",))
    assert [t.config["filters"] for t in RECIPE.study(profile="width", seeds=[0]).trials()] == [8, 12, 16, 24, 32, 48]


@pytest.mark.long
def test_a_wider_network_has_more_parameters_and_is_tested_on_the_same_tasks(data_dir: Path) -> None:
    if not (data_dir / "omniglot").is_dir():
        pytest.skip("the data set 'omniglot' is absent from METASCALE_DATA")
    rows, tasks = [], []
    for chosen in RECIPE.study({"filters": [4, 8]}, "width-smoke").trials():
        run = MemoryRun()
        rows.append(trial(chosen.config, run, "cpu"))
        tasks.append([row["task_id"] for row in run.rows("test_tasks")])
    assert [row["n_params_trainable"] for row in rows] == [525, 1909]
    assert tasks[0] == tasks[1]
    assert all(0.1 < row["test_accuracy"] < 1 for row in rows)


def test_maml_plus_plus_has_gains_and_shifts_that_do_not_adapt_for_every_inner_step() -> None:
    study = RECIPE.study(profile="maml++")
    config = study.trials()[0].config
    settings = RECIPE.validate(config)
    gradient = make_gradient(settings)
    assert isinstance(gradient, MultiStepMAML)
    assert gradient.multi_step > 0
    model = ConvNet(5, steps=settings.inner_steps)
    theta = gradient.inner.init(model.init(0))
    assert theta["block3.gain"].shape == (settings.inner_steps, 64)
    assert "rate/block3.gain" not in theta
    assert theta["rate/block3.weight"].shape == (settings.inner_steps,)
    with pytest.raises(InputError, match="norm_by=step needs inner steps, which method=protonet") as caught:
        RECIPE.study({"norm_by": "step"}, "protonet")
    assert caught.value.field == "norm_by"


def test_a_recorded_study_keeps_its_trials_where_steps_share_their_normalisation() -> None:
    assert "norm_by" not in RECIPE.study(profile="laptop").base
    assert RECIPE.study(profile="maml++").base["norm_by"] == "step"
