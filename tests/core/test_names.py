"""Names that files and tables hold: a study written by one version is read by the next, so none of them changes."""

from __future__ import annotations

from metascale.core import columns

NAMES = {
    "TEST_LOSS": "test_loss_nats", "TEST_ACCURACY": "test_accuracy", "VALIDATION_LOSS": "validation_loss_nats",
    "KEPT_STEP": "kept_step", "BEST_STEP": "best_step", "TEST_INNER_STEPS": "test_inner_steps",
    "TEST_INNER_LR": "test_inner_lr", "TEST_SCALE": "test_scale", "TEST_CHOICE": "test_choice",
    "TEST_EDGE": "test_choice_edge",
    "ADAPTATION": ("test_inner_steps", "test_inner_lr", "test_scale", "test_choice", "test_choice_edge"),
    "N_PARAMS_TOTAL": "n_params_total", "N_PARAMS_NON_EMBEDDING": "n_params_non_embedding",
    "TRAIN_FLOPS": "train_flops", "WALL_S": "wall_s",
    "META": "meta", "TRIAL": "trial", "BASELINE": "baseline", "CONTROL": "control", "TUNING": "tuning",
    "SUPERSEDED": "superseded", "NOT_BEST": "not_best", "MAIN_KINDS": ("meta", "trial"),
    "COMPARED_KINDS": ("baseline", "control"),
    "NOT_IN_A_LAW": ("baseline", "control", "tuning", "superseded", "not_best"),
    "STUDY_JSON": "study.json", "RESULTS_CSV": "results.csv", "ALL_RESULTS_JSON": "all_results.json",
    "BASELINES_JSON": "baselines.json", "LAW_JSON": "law.json", "LAWS_JSON": "laws.json", "TUNING_JSON": "tuning.json",
    "SIZE_JSON": "size.json", "SUMMARY_JSON": "summary.json", "REPORT_HTML": "report.html",
    "TEST_POOL_JSON": "test_pool.json", "TRAIN_POOL_JSON": "train_pool.json", "COMMAND_JSON": "command.json",
    "PROVENANCE_JSON": "provenance.json", "PROVENANCE_JSONL": "provenance.jsonl",
    "IGNORED": -100,
}  # fmt: skip


def test_every_shared_name_is_that_of_the_files() -> None:
    assert {name: getattr(columns, name, None) for name in NAMES} == NAMES
