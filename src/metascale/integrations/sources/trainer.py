"""The ``trainer_state.json`` of Hugging Face's Trainer, alone or in the folders of runs and their checkpoints.

``training_args.bin`` beside it is a pickle, which runs code when it is loaded: it is never read. The model's
``config.json`` is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.integrations.sources.places import find, name_below, read_json_object
from metascale.integrations.sources.runs import Imported, ImportedRun, Scalar, flat, number

STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_SETTINGS = (
    *("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "save_steps"),
    *("total_flos", "num_input_tokens_seen", "best_metric", "best_global_step", "trial_name"),
)


def is_state(name: str) -> bool:
    return name == STATE


def read_trainer(path: Path) -> Imported:
    """A run for each output folder: of its checkpoints and its own state, the one that went furthest.

    Raises:
        InputError: there is none, or it is no state of a Trainer.
    """
    files = [path] if path.is_file() else find(path, is_state)
    if not files:
        raise InputError(f"'{path}' holds no {STATE} of Hugging Face's Trainer", value=str(path))
    root = path.parent if path.is_file() else path
    outputs: dict[Path, list[Path]] = {}
    for file in files:
        single = path.is_file() or not _CHECKPOINT.fullmatch(file.parent.name) or file.parent == root.resolve()
        outputs.setdefault(file.parent if single else file.parent.parent, []).append(file)
    runs = []
    for output, states in outputs.items():
        read = [(_state(file), file) for file in states]
        state, file = max(read, key=lambda one: (one[0]["global_step"], one[1].parent == output))
        newest = max(read, key=lambda one: (one[0]["global_step"], one[1].parent != output))[1]
        runs.append(_run(state, newest.parent / "config.json", name_below(output, root)))
    return Imported(str(path), runs)


def _state(file: Path) -> dict[str, Any]:
    state = read_json_object(file)
    steps, history = state.get("global_step"), state.get("log_history")
    whole = isinstance(history, list) and all(isinstance(row, dict) for row in history)
    if not whole or not isinstance(steps, int) or isinstance(steps, bool):
        raise InputError(
            f"'{file}' is no state of a Trainer: it needs a whole number 'global_step' and a 'log_history'"
        )
    return state


def _run(state: dict[str, Any], model: Path, name: str) -> ImportedRun:
    run = ImportedRun(name, state=_ended(state))
    run.config |= {key: _scalar(state[key]) for key in _SETTINGS if state.get(key) is not None}
    if model.is_file() and not model.is_symlink():
        run.config |= {f"model.{key}": value for key, value in flat(read_json_object(model), str(model)).items()}
    for row in state["log_history"]:
        step = row.get("step")
        if not isinstance(step, int):
            continue
        for key, value in row.items():
            known = number(value)
            # total_flos stands in the configuration; "step" is the row's own.
            if known is not None and key not in ("step", "total_flos"):
                run.add(key, step, known)
    metric = state.get("best_metric")
    best = state.get("best_global_step")
    for key, one in run.series.items():
        # Whether larger is better is not stored; the step that the Trainer kept tells.
        if key.startswith("eval_") and isinstance(best, int) and best in one.steps and number(metric) is not None:
            value = one.values[one.steps.index(best)]
            if value == metric and len(set(one.values)) > 1:
                run.larger[key] = value == max(one.values)
    return run


def _scalar(value: Any) -> Scalar:
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _ended(state: dict[str, Any]) -> str:
    """Finished at the last step, or where a callback ended it; a state of a checkpoint before is unfinished."""
    last = number(state.get("max_steps"))
    if last is not None and 0 < last <= state["global_step"]:
        return "finished"
    control = state.get("stateful_callbacks")
    control = control.get("TrainerControl") if isinstance(control, dict) else None
    said = control.get("args") if isinstance(control, dict) else None
    return "finished" if isinstance(said, dict) and said.get("should_training_stop") is True else "unfinished"
