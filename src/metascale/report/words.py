"""Numbers, columns and methods as words, the same in plots, page and summary."""

from __future__ import annotations

import math

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
}
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
    "melora_gauss_newton": "MELoRA, Gauss-Newton",
    "melora_block_diagonal": "MELoRA, block diagonal",
    "melora_diagonal": "MELoRA, diagonal",
    "melora_finite_difference": "MELoRA, finite difference",
    "sama": "SAMA",
    "reweight": "reweighted",
    "reweight_correct": "reweighted and corrected",
    "el2n": "EL2N",
    "fine_tuning": "fine-tuning",
    "prototypes": "prototypes",
    "linear_probe": "linear probe",
    "zero_shot": "zero-shot",
    "class_prior": "class prior",
}


def method_label(method: str) -> str:
    """Words for a method."""
    return METHOD_LABELS.get(method, method.replace("_", " "))


def axis_label(column: str) -> str:
    """Words for an axis of a study."""
    return AXIS_LABELS.get(column, column.replace("_", " "))


def number(value: float) -> str:
    """A plain number: thousands with commas, no exponent for what people read at a glance."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e7:
        text = f"{int(value):,}"
    else:
        text = f"{value:.4g}" if abs(value) < 1e7 else f"{value:.3g}".replace("e+0", "e").replace("e+", "e")
    return text.replace("-", "−")


def decimals(value: float | None, digits: int = 3) -> str:
    """A fixed number of decimals; a dash for what is unknown."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return "–" if value is None else f"{100 * value:.{digits}f} %".replace("-", "−")


def p_words(value: float) -> str:
    """A p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """The two ends of an interval in brackets."""
    return "" if low is None or high is None else f"[{decimals(low, digits)}, {decimals(high, digits)}]"


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
