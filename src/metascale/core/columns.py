"""Names that rooms share: columns of a results table, kinds of trials, files of a study's folder."""

from __future__ import annotations

# Columns of results.csv and of a trial's result.
TEST_LOSS, TEST_ACCURACY = "test_loss_nats", "test_accuracy"
VALIDATION_LOSS = "validation_loss_nats"
"""Of the state that was tested."""
KEPT_STEP, BEST_STEP = "kept_step", "best_step"
"""The step of the state that was tested, and the one of the lowest validation loss."""
TEST_INNER_STEPS, TEST_INNER_LR, TEST_SCALE = "test_inner_steps", "test_inner_lr", "test_scale"
"""How the model was adapted to the test tasks; no rate where the rates are learnt."""
TEST_CHOICE, TEST_EDGE = "test_choice", "test_choice_edge"
"""Whether meta-validation chose that (``"validation"``) or the configuration (``"fixed"``), and which chosen values lie
at an end of what was tried."""
ADAPTATION = (TEST_INNER_STEPS, TEST_INNER_LR, TEST_SCALE, TEST_CHOICE, TEST_EDGE)
N_PARAMS_TOTAL, N_PARAMS_NON_EMBEDDING = "n_params_total", "n_params_non_embedding"
TRAIN_FLOPS = "train_flops"
WALL_S = "wall_s"

# Kinds of trials (the column `kind`).
META = "meta"
"""A meta-trained model, on the study's axes."""
TRIAL = "trial"
"""A supervised or bilevel model, on the study's axes."""
BASELINE = "baseline"
CONTROL = "control"
"""A baseline that knows less than any model should, such as the class prior."""
TUNING = "tuning"
"""A trial of a hyperparameter search."""
SUPERSEDED = "superseded"
"""A trial on the axes for whose point a later search found other values."""
NOT_BEST = "not_best"
"""A trial at a value of a best-of axis that another value beat."""
MAIN_KINDS = (META, TRIAL)
"""The trials that the axes vary: what a study is about."""
COMPARED_KINDS = (BASELINE, CONTROL)
"""What the main trials are compared with."""
NOT_IN_A_LAW = (BASELINE, CONTROL, TUNING, SUPERSEDED, NOT_BEST)
"""The trials that no law is fitted to."""

# Files of a study's folder. What a single room writes and reads is named there.
STUDY_JSON = "study.json"
RESULTS_CSV, ALL_RESULTS_JSON = "results.csv", "all_results.json"
BASELINES_JSON = "baselines.json"
LAW_JSON, LAWS_JSON, TUNING_JSON, SIZE_JSON = "law.json", "laws.json", "tuning.json", "size.json"
SUMMARY_JSON, REPORT_HTML = "summary.json", "report.html"
TEST_POOL_JSON, TRAIN_POOL_JSON = "test_pool.json", "train_pool.json"
COMMAND_JSON = "command.json"
PROVENANCE_JSON, PROVENANCE_JSONL = "provenance.json", "provenance.jsonl"

IGNORED = -100
"""The target of a position that no loss counts, as in ``torch.nn.functional.cross_entropy``."""
