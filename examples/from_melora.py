"""Convert a configuration file of MELoRA into keys of the recipe `melora`; an unknown key is refused by name.

python examples/from_melora.py config.yml > ours.yml
metascale run melora --config ours.yml --out runs/melora
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from metascale.core import InputError
from metascale.core.suggest import suggest

METHOD_OF_CURVATURE: Mapping[str, str] = {
    "none": "fomaml",
    "exact": "melora",
    "unrolled": "maml",
    "gauss_newton": "melora_gauss_newton",
    "block_diagonal": "melora_block_diagonal",
    "diagonal": "melora_diagonal",
    "finite_difference": "melora_finite_difference",
}
FAMILY_OF_MODEL: Mapping[str, str] = {
    "gpt2-small": "gpt2",
    "gpt2-medium": "gpt2",
    "t5-small": "t5",
    "t5-base": "t5",
    "distilbert": "distilbert",
}
KEYS: Mapping[str, str] = {
    "models.selected_model": "backbone",
    "lora.default_rank": "rank",
    "lora.rank": "rank",
    "lora.alpha": "alpha",
    "lora.dropout": "dropout",
    "lora.target_modules": "targets",
    "meta_learning.inner.default_lr": "inner_lr",
    "meta_learning.inner.default_num_steps": "inner_steps",
    "meta_learning.outer.default_lr": "outer_lr",
    "meta_learning.default_meta_batch_size": "meta_batch",
    "meta_learning.num_iterations": "max_steps",
    "memory_optimization.gradient_accumulation.default_micro_batch": "micro_batch",
    "memory_optimization.checkpointing.enabled": "checkpointing",
    "memory_optimization.checkpointing.checkpoint_lora_only": "checkpointing",
    "memory_optimization.hessian_approximation.method": "method",
    "evaluation.memory_profiling.enabled": "measure_memory",
    "evaluation.memory_profiling.detailed_breakdown": "measure_memory",
}
"""MELoRA's keys by their path, and the key of ours that each becomes."""

_GROUPS = tuple(dict.fromkeys(path.split(".")[0] for path in KEYS))
_CHECKPOINTING = "memory_optimization.checkpointing"
_PROFILING = "evaluation.memory_profiling"


def translate(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with MELoRA's groups replaced by our keys; a key of ours given beside them wins.

    Raises:
        InputError: an unknown key inside a group, with the nearest known one; or a value that has no counterpart.
    """
    ours = {key: value for key, value in values.items() if key not in _GROUPS}
    theirs: dict[str, Any] = {}
    for group in _GROUPS:
        if group in values:
            theirs |= _paths(values[group], group)
    found = _checkpointing(theirs) | _profiling(theirs)
    special: Mapping[str, Callable[[Any], Any]] = {
        "lora.target_modules": lambda value: _targets(value, str(ours.get("backbone", found.get("backbone", "")))),
        "memory_optimization.hessian_approximation.method": _method,
    }
    for path, value in sorted(theirs.items(), key=lambda item: list(KEYS).index(item[0])):
        if not path.startswith((_CHECKPOINTING, _PROFILING)):
            found[KEYS[path]] = special[path](value) if path in special else value
    return {**found, **ours}


def _paths(value: Any, path: str) -> dict[str, Any]:
    """Values by dotted path; a path that is a key ends there, whatever its value is."""
    if path in KEYS:
        return {path: value}
    if not isinstance(value, Mapping):
        raise _unknown(path)
    found: dict[str, Any] = {}
    for key, inner in value.items():
        below = f"{path}.{key}"
        if not any(known == below or known.startswith(f"{below}.") for known in KEYS):
            raise _unknown(below)
        found |= _paths(inner, below)
    return found


def _unknown(path: str) -> InputError:
    return InputError(f"the configuration has no key '{path}'; {suggest(path, KEYS, 'known')}")


def _checkpointing(theirs: Mapping[str, Any]) -> dict[str, Any]:
    enabled = _flag(theirs, f"{_CHECKPOINTING}.enabled")
    lora_only = _flag(theirs, f"{_CHECKPOINTING}.checkpoint_lora_only")
    if enabled is None and lora_only is None:
        return {}
    if enabled is False:
        return {"checkpointing": "none"}
    return {"checkpointing": "all" if lora_only is False else "adapters"}


def _profiling(theirs: Mapping[str, Any]) -> dict[str, Any]:
    enabled = _flag(theirs, f"{_PROFILING}.enabled")
    breakdown = _flag(theirs, f"{_PROFILING}.detailed_breakdown")
    if enabled is False and breakdown:
        raise InputError(f"'{_PROFILING}.detailed_breakdown' is part of a profile; '{_PROFILING}.enabled' is false")
    return {} if enabled is None and breakdown is None else {"measure_memory": enabled is not False}


def _flag(theirs: Mapping[str, Any], path: str) -> bool | None:
    value = theirs.get(path)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"'{path}' is true or false, not {value!r}")
    return value


def _targets(value: Any, backbone: str) -> Any:
    """A list for every model, or lists by family, of which the model's own is taken."""
    if not isinstance(value, Mapping):
        return value
    families = sorted({*FAMILY_OF_MODEL.values()})
    for family in value:
        if family not in families:
            raise InputError(f"'lora.target_modules' has no family '{family}'; {suggest(family, families)}")
    return value.get(FAMILY_OF_MODEL.get(backbone or "gpt2-small", ""), ())


def _method(value: Any) -> str:
    if value not in METHOD_OF_CURVATURE:
        known = suggest(value, METHOD_OF_CURVATURE)
        raise InputError(f"'memory_optimization.hessian_approximation.method' is not {value!r}; {known}")
    return METHOD_OF_CURVATURE[value]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python from_melora.py CONFIG.yml > OURS.yml")
    try:
        print(yaml.safe_dump(translate(yaml.safe_load(Path(sys.argv[1]).read_text())), sort_keys=False), end="")
    except InputError as error:
        sys.exit(f"from_melora: {error}")
