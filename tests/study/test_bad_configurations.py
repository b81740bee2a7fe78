"""Forty configurations that are refused: exit status 2, one sentence, before torch is loaded, and nothing on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BAD: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # recipe, options, what the sentence names: the key, the nearest key or the allowed range
    ("digits", ("--set", "n_taks=3"), ("n_taks", "did you mean 'n_tasks'?")),
    ("digits", ("--set", "kshot=1"), ("kshot", "here it is 'k_shot'")),
    ("digits", ("--set", "inner_rate=0.1"), ("inner_rate",)),
    ("digits", ("--set", "outer_ler=0.1"), ("outer_ler", "did you mean 'outer_lr'?")),
    ("digits", ("--set", "xyz=1"), ("xyz", "allowed keys are")),
    ("digits", ("--set", "n_way=1"), ("n_way", "greater than or equal to 2")),
    ("digits", ("--set", "k_shot=0"), ("k_shot", "greater than or equal to 1")),
    ("digits", ("--set", "k_shot=-3"), ("k_shot", "greater than or equal to 1")),
    ("digits", ("--set", "k_shot=1.5"), ("k_shot", "integer")),
    ("digits", ("--set", "k_shot=many"), ("k_shot", "integer")),
    ("digits", ("--set", "n_query=0"), ("n_query", "greater than or equal to 1")),
    ("digits", ("--set", "n_tasks=[0,10]"), ("n_tasks", "greater than or equal to 1")),
    ("digits", ("--set", "n_tasks=[10,ten]"), ("n_tasks", "integer")),
    ("digits", ("--set", "n_tasks=[]"), ("n_tasks", "at least one value")),
    ("digits", ("--set", "n_tasks=[10,10]"), ("asks twice",)),
    ("digits", ("--set", "inner_lr=0"), ("inner_lr", "greater than 0")),
    ("digits", ("--set", "inner_lr=-1e-3"), ("inner_lr", "greater than 0")),
    ("digits", ("--set", "inner_lr=1e9"), ("inner_lr", "less than 1000000")),
    ("digits", ("--set", "inner_lr=.nan"), ("inner_lr",)),
    ("digits", ("--set", "inner_lr=.inf"), ("inner_lr",)),
    ("digits", ("--set", "outer_lr=fast"), ("outer_lr", "number")),
    ("digits", ("--set", "inner_steps=-1"), ("inner_steps", "greater than or equal to 0")),
    ("digits", ("--set", "inner_optimizer=sdg"), ("inner_optimizer", "'sgd'")),
    ("digits", ("--set", "method=repitle"), ("method", "'reptile'")),
    ("digits", ("--set", "budget=forever"), ("budget", "'converged'")),
    ("digits", ("--set", "labels=random"), ("labels", "'permuted'")),
    ("digits", ("--set", "classes=all"), ("classes", "'disjoint'")),
    ("digits", ("--set", "meta_batch=0"), ("meta_batch", "greater than or equal to 1")),
    ("digits", ("--set", "max_steps=0"), ("max_steps", "greater than or equal to 1")),
    ("digits", ("--set", "patience=0"), ("patience", "greater than or equal to 1")),
    ("digits", ("--set", "inner_weight_decay=-0.1"), ("inner_weight_decay", "greater than or equal to 0")),
    ("digits", ("--set", "adaptation_curve=[-1]"), ("adaptation_curve", "greater than or equal to 0")),
    ("digits", ("--set", "method=fine_tuning"), ("fine_tuning", "kind 'meta'")),
    ("digits", ("--set", "learn_rates=true", "--set", "method=reptile"), ("learn_rates", "method=maml")),
    ("digits", ("--set", "n_tasks"), ("--set needs key=value", "n_tasks")),
    ("digits", ("--set", "n_tasks=[1,"), ("n_tasks", "YAML")),
    ("digits", ("--seeds", "0,one"), ("--seeds", "0,1,2")),
    ("digits", ("--seeds", "-1"), ("seeds", "0 or more")),
    ("digits", ("--profile", "huge"), ("profile 'huge'",)),
    ("digitz", (), ("digitz", "did you mean 'digits'?")),
    ("omniglot", (), ("METASCALE_DATA", "--data-dir")),
    ("csv", ("--set", "path=nowhere.csv"), ("nowhere.csv", "is no file")),
)

DRIVER = """
import contextlib, io, json, sys
from metascale.cli import main as cli
cases, out = json.loads(sys.argv[1]), sys.argv[2]
found = []
for recipe, options in cases:
    sys.argv = ["metascale", "run", recipe, "--out", out, *options]
    said, code = io.StringIO(), 0
    cli.err.file = said
    try:
        with contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    found.append([code, said.getvalue(), "torch" in sys.modules])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> tuple[list[tuple[int, str, bool]], Path]:
    """Every case in one fresh process, which must never have loaded torch."""
    folder = tmp_path_factory.mktemp("refused")
    cases = json.dumps([(recipe, options) for recipe, options, _ in BAD])
    environment = {**os.environ, "METASCALE_DATA": "", "COLUMNS": "300", "TERM": "dumb"}
    command = [sys.executable, "-c", DRIVER, cases, str(folder / "study")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


@pytest.mark.parametrize("number", range(len(BAD)), ids=[" ".join((recipe, *options)) for recipe, options, _ in BAD])
def test_a_bad_configuration_is_refused(number, answers):
    code, said, torch_loaded = answers[0][number]
    assert code == 2, said
    for part in BAD[number][2]:
        assert part in said
    assert len(said.strip().splitlines()) == 1, said
    assert "Traceback" not in said
    assert not torch_loaded


def test_nothing_was_written_and_there_are_forty(answers):
    assert list(answers[1].iterdir()) == []
    assert len(BAD) >= 40
