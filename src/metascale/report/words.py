"""Numbers, columns and methods as words, the same in plots, page and summary."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

AXIS_LABELS = {
    "n_tasks": "training tasks N",
    "n_params_trainable": "trainable parameters",
    "lora_r": "LoRA rank r",
    "rank": "LoRA rank r",
    "n_train_classes": "training classes",
    "k_shot": "support examples a class",
    "inner_steps": "inner steps K",
    "n_way": "classes a task",
    "meta_batch": "tasks a meta-batch",
    "width": "width",
    "depth": "depth",
    "n_params_non_embedding": "non-embedding parameters",
    "n_params_total": "parameters",
    "train_flops": "training FLOPs",
    "n_train": "training examples",
    "n_clean": "clean texts",
}
COUNTED = frozenset(
    {"n_tasks", "n_train_classes", "n_train", "n_clean", "k_shot", "n_way", "meta_batch", "inner_steps"}
)
"""Axes that count what their label names, so that a sentence says "the number of" it."""
METHOD_LABELS = {
    "reptile": "Reptile",
    "maml": "MAML",
    "fomaml": "first-order MAML",
    "first_order_maml": "first-order MAML",
    "meta_sgd": "Meta-SGD",
    "anil": "ANIL",
    "imaml": "iMAML",
    "protonet": "ProtoNet",
    "r2d2": "R2-D2 (ridge)",
    "metaoptnet": "MetaOptNet (SVM)",
    "melora": "MELoRA, exact",
    "melora_checkpointed": "MELoRA, checkpointed",
    "melora_gauss_newton": "MELoRA, Gauss-Newton",
    "melora_block_diagonal": "MELoRA, block diagonal",
    "melora_diagonal": "MELoRA, diagonal",
    "melora_finite_difference": "MELoRA, finite difference",
    "sama": "SAMA",
    "reweight": "reweighted",
    "reweight_correct": "reweighted and corrected",
    "reweight_both": "reweighted beside clean",
    "then": "weak, then clean",
    "el2n": "EL2N",
    "fine_tuning": "fine-tuning",
    "prototypes": "prototypes",
    "linear_probe": "linear probe",
    "zero_shot": "zero-shot",
    "class_prior": "class prior",
    "resnet_bk": "ResNet-BK",
    "transformer": "Transformer",
}


def in_order(name: str) -> tuple[tuple[int, float, str], ...]:
    """A sort key in which the numbers of a name count as numbers: width 8 comes before width 16, 900 before 1,024."""
    parts = re.split(r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?(?:e[+-]?\d+)?)", name)
    return tuple(
        (1, float(part.replace(",", "")), "") if place % 2 else (0, 0.0, part) for place, part in enumerate(parts)
    )


def method_label(method: str) -> str:
    """Words for a method."""
    return METHOD_LABELS.get(method, method.replace("_", " "))


def axis_label(column: str) -> str:
    """Words for an axis of a study."""
    return AXIS_LABELS.get(column, column.replace("_", " "))


DIGITS = 3
"""Significant digits of what was measured; the tables' read-outs and summary.json have all of them."""


def number(value: float, digits: int = DIGITS) -> str:
    """A setting or a count: whole numbers to ten million in full, others with three significant digits at most."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}".replace("-", "−")
    return _significant(value, digits, zeros=False)


def measured(value: float | None, digits: int = DIGITS) -> str:
    """A measured value with three significant digits, zeros kept: 0.160; a dash for what is unknown."""
    return "–" if value is None else _significant(value, digits, zeros=True)


def _significant(value: float, digits: int, *, zeros: bool) -> str:
    """Thousands with commas; a power of ten below 0.0001 and from ten million on."""
    if not math.isfinite(value):
        return str(value).replace("-", "−")
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    size = int(exponent)
    if -4 <= size < 7:
        places = max(0, digits - 1 - size)
        text = f"{round(value, digits - 1 - size):,.{places}f}"
        power = ""
    else:
        text, power = mantissa, f"×10{str(size).translate(_RAISED)}"
    if not zeros and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−") + power


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "sigma": "σ", "kappa": "κ"}


def greek(text: str) -> str:
    """Names of parameters as papers write them: ``A x^-alpha`` is ``A x^−α``."""
    named = re.sub(r"(?<![A-Za-z])(?:alpha|beta|gamma|delta|sigma|kappa)(?![A-Za-z])", lambda m: GREEK[m[0]], text)
    return named.replace("^-", "^−")


def numbers(values: Sequence[float]) -> list[str]:
    """Numbers of one axis: with more digits than three where two of them would read the same."""
    for digits in range(DIGITS, 16):
        texts = [number(value, digits) for value in values]
        if len(set(texts)) == len(set(values)):
            break
    return texts


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage, to a tenth of a percent."""
    return "–" if value is None else f"{100 * value:.{digits}f} %".replace("-", "−")


def p_words(value: float) -> str:
    """A p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """The two ends of an interval in brackets, with more digits than three where both would read the same."""
    if low is None or high is None:
        return ""
    digits = next((n for n in range(DIGITS, 10) if measured(low, n) != measured(high, n)), DIGITS)
    return f"[{measured(low, digits)}, {measured(high, digits)}]"


def scale_words(x_name: str, x: float) -> str:
    """One scale in words: ``N = 1,000`` for task counts, ``rank = 8`` for another axis."""
    return f"{scale_symbol(x_name)}\u00a0=\u00a0{number(x)}"


def scale_symbol(x_name: str) -> str:
    """What stands for the axis in short: N for the number of tasks, else its name."""
    return "N" if x_name == "n_tasks" else axis_label(x_name)


def seed_words(seed: int | None) -> str:
    """A seed in words."""
    return "no seed" if seed is None else f"seed {seed}"


def value_words(value: object) -> str:
    """A setting's value for reading."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_words, value))
    return number(value) if isinstance(value, (int, float)) else str(value)
