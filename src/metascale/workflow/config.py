"""The configuration of a few-shot study: one flat, validated dataclass. It knows nothing of torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.core.units import parse_bytes
from metascale.workflow.foreign import hint

if TYPE_CHECKING:
    from metascale.tasks.fewshot import FewShotSettings


def _not_a_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a number")
    return value


_Number = BeforeValidator(_not_a_boolean)
Count = Annotated[int, Field(ge=1, le=10**9), _Number]
NonNegative = Annotated[int, Field(ge=0, le=10**9), _Number]
Rate = Annotated[float, Field(gt=0, lt=1e6), _Number]
Weight = Annotated[float, Field(ge=0, lt=1e6), _Number]
Share = Annotated[float, Field(ge=0, lt=1), _Number]
Part = Annotated[float, Field(gt=0, le=1), _Number]

Method = Literal[
    "reptile",
    "fomaml",
    "maml",
    "imaml",
    "protonet",
    "r2d2",
    "metaoptnet",
    "zero_shot",
    "class_prior",
    "fine_tuning",
    "prototypes",
    "linear_probe",
]
Curvature = Literal[
    "unrolled",
    "exact",
    "gauss_newton",
    "block_diagonal",
    "diagonal",
    "diagonal_hutchinson",
    "finite_difference",
    "none",
]
Budget = Literal["converged", "steps", "visits", "compute"]
FIRST_ORDER: tuple[Curvature, ...] = ("diagonal", "finite_difference", "none")
"""Curvatures that take no second derivatives."""
BASELINES: tuple[Mapping[str, str], ...] = (
    {"method": "zero_shot", "kind": "baseline"},
    {"method": "fine_tuning", "kind": "baseline"},
    {"method": "prototypes", "kind": "baseline"},
    {"method": "linear_probe", "kind": "baseline"},
    {"method": "class_prior", "kind": "control"},
)
"""What runs once beside the meta-learner in every few-shot classification study."""
FREE_IN_A_STACK = frozenset(
    {"n_tasks", "n_train_classes", "inner_lr", "budget", "max_steps", "visits_per_task", "eval_every", "patience"}
    | {"min_delta", "outer_optimizer", "outer_lr", "outer_clip", "outer_momentum", "outer_beta1", "outer_beta2"}
    | {"outer_weight_decay", "outer_schedule", "outer_warmup", "outer_final_rate", "outer_decay_share"}
)
"""Keys in which few-shot trials that run together may differ, besides their seeds."""
JOINED_TASKS = 8
"""Meta-batches of other than a multiple are not joined (`metascale.parallel.stacked.MULTIPLE`, which needs torch)."""
JOINING = ("reptile", "fomaml", "maml")
JOINING_CURVATURES = ("unrolled", "exact", "gauss_newton", "none")


@dataclass(frozen=True)
class TrialConfig:
    """Base of the configurations of trials: a frozen dataclass whose annotations are the ranges of its keys.

    A subclass declares only new keys: a key declared again would lose the range that it has here. What a recipe sets
    otherwise is in its ``defaults``.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)

    def refuse(self, where: str) -> None:
        """
        Raises:
            InputError: settings that do not go together; the message names both and what to do.
        """

    def stack_kind(self) -> Mapping[str, object] | None:
        """What trials have in common that can run together (`metascale.workflow.stacks`); ``None``: this one cannot."""
        return None

    def without(self, keys: Container[str]) -> dict[str, object]:
        """The settings by key, without some."""
        names = (each.name for each in dataclasses.fields(self) if each.name not in keys)
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class FewShotConfig(TrialConfig):
    """Everything that determines one trial of a few-shot study, except its seed and where it runs.

    Args:
        kind: ``"meta"`` (meta-trained), ``"baseline"`` or ``"control"``.
        method: the meta-learner, baseline or control. ``"protonet"``, ``"r2d2"`` and ``"metaoptnet"`` train features
            for a classifier that the support set determines (class means; ridge regression; a support vector machine):
            they take no inner steps, and keys of the inner loop say how the baselines beside them adapt.
        n_way, k_shot, n_query: shape of an episode.
        train_n_way: classes of a training task, where it has another number; only where no parameter of the model
            belongs to a class, that is with a method that takes no inner steps.
        n_tasks: distinct training tasks; none means a fresh class combination at every visit.
        n_train_classes: distinct training classes; none means all of the split.
        n_validation_tasks, n_test_tasks: fixed episodes of meta-validation and meta-test, the same in every trial.
        labels, classes: ``"permuted"`` and ``"disjoint"``; the other values are the published leaks, for showing them.
        meta_batch: tasks an outer step.
        inner_optimizer, inner_lr, inner_momentum, inner_steps, inner_clip, inner_weight_decay: the inner loop; momentum
            is of ``"sgd"``.
        inner_batch_size: support examples an inner step; none means all.
        micro_batch: examples a forward pass in the inner loop; none means all.
        adapt: name patterns of the parameters that adapt (``["head*"]`` is ANIL).
        learn_rates, rates_by: a learnt inner rate for every parameter ``"element"`` (Meta-SGD), or for every tensor at
            every inner ``"step"`` (MAML++); or learnt matrices along every ``"mode"`` of a tensor (Meta-Curvature).
        multi_step, first_order_steps: MAML++, outer steps over which losses after every inner step fade out, and before
            second derivatives are taken.
        reptile_data: Reptile adapts on the ``"support"`` set or on ``"all"`` examples of a training episode.
        curvature: how MAML goes back through the inner steps: ``"exact"``, one step at a time (memory flat in K);
            ``"unrolled"``, the same number by keeping the whole trajectory; or an approximation of the Hessian, of
            which ``"none"`` is first-order MAML. Implicit MAML takes it for its linear solve (unrolled: exact).
        curvature_probes: random probes of ``"diagonal_hutchinson"``.
        proximal, cg_steps: implicit MAML's proximal strength λ, and iterations of its conjugate gradients; 0 takes the
            identity for the inverse curvature, as SAMA does.
        inner_beta1, inner_beta2: of an inner ``"adam"`` or ``"adamw"``.
        outer_optimizer, outer_lr, outer_clip, outer_momentum, outer_beta1, outer_beta2, outer_weight_decay: the outer
            loop; Reptile's interpolation rate is ``sgd``'s ``outer_lr``. Momentum is of ``"sgd"``, betas are of the
            other two, and decay (decoupled) is of ``"sgd"`` and ``"adamw"``.
        outer_schedule, outer_warmup, outer_final_rate, outer_decay_share: how the outer rate moves over the steps:
            ``"constant"``, ``"linear"``, ``"cosine"`` or ``"wsd"`` (a plateau, then a linear decay over the last
            ``outer_decay_share`` of the steps), each after a linear warm-up over ``outer_warmup`` steps, and down to
            the share ``outer_final_rate`` of ``outer_lr``.
        budget: ``"converged"`` stops early on meta-validation and restores the best; ``"steps"`` gives every N the same
            ``max_steps``; ``"visits"`` gives every task ``visits_per_task`` visits. Both end with the last state.
            ``"compute"`` gives every method the outer steps that ``budget_flops`` pay for, as its own step is counted,
            validates ten times and restores the best.
        max_steps: outer steps (at most, when converged).
        visits_per_task: visits of each training task under ``budget="visits"``.
        budget_flops: floating-point operations of meta-training under ``budget="compute"``.
        eval_every, patience, min_delta: validation and early stopping.
        eval_inner_steps: inner steps at validation and test, at the rate of training; none means that validation takes
            ``inner_steps``, and the test what meta-validation chooses.
        adaptation_curve, n_curve_tasks: numbers of inner steps K of the adaptation-step curve, and its test tasks.
        tune_rates, tune_steps: inner rates and numbers of inner steps, beside those of training, among which the
            meta-learner and the fine-tuning baseline choose on meta-validation how they adapt to the test tasks.
        tune_scales: with a method that takes no inner steps, factors of its logits, beside 1, among which it chooses on
            meta-validation for the test, as the baseline of frozen prototypes chooses its scale.
        train_threads: threads, or processes where the model says so, that share the tasks of a meta-batch inside one
            trial.
        memory_budget: bytes that an outer step's tensors may take (``"8GiB"``): lowers tasks in one call, workers, then
            checkpoints blocks, then cuts micro-batches, until it fits.
        measure_memory: measure the peak of live bytes of one outer step, by what they hold.
    """

    kind: Literal["meta", "baseline", "control"] = "meta"
    method: Method = "reptile"
    n_way: Annotated[int, Field(ge=2)] = 5
    k_shot: Count = 1
    n_query: Count = 15
    n_tasks: Count | None = 100
    n_train_classes: Count | None = None
    n_validation_tasks: Count = 50
    n_test_tasks: Count = 200
    labels: Literal["permuted", "sorted"] = "permuted"
    classes: Literal["disjoint", "shared"] = "disjoint"
    meta_batch: Count = 4
    inner_optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    inner_lr: Rate = 0.1
    inner_momentum: Share = 0.0
    inner_beta1: Share = 0.9
    inner_beta2: Share = 0.999
    inner_steps: NonNegative = 5
    inner_clip: Rate | None = None
    inner_weight_decay: Weight = 0.0
    inner_batch_size: Count | None = None
    micro_batch: Count | None = None
    adapt: tuple[str, ...] = ("*",)
    learn_rates: bool = False
    rates_by: Literal["element", "step", "mode"] = "element"
    multi_step: NonNegative = 0
    first_order_steps: NonNegative = 0
    reptile_data: Literal["support", "all"] = "support"
    curvature: Curvature = "exact"
    curvature_probes: Count = 4
    proximal: Rate = 2.0
    cg_steps: NonNegative = 5
    outer_optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    outer_lr: Rate = 0.1
    outer_clip: Rate | None = None
    outer_momentum: Share = 0.0
    outer_beta1: Share = 0.9
    outer_beta2: Share = 0.999
    outer_weight_decay: Weight = 0.0
    outer_schedule: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    outer_warmup: NonNegative = 0
    outer_final_rate: Share = 0.0
    outer_decay_share: Part = 0.2
    budget: Budget = "converged"
    max_steps: Count = 1000
    visits_per_task: Count = 20
    budget_flops: Annotated[float, Field(gt=0, lt=1e30)] | None = None
    eval_every: Count = 50
    patience: Count = 5
    min_delta: Weight = 0.0
    eval_inner_steps: NonNegative | None = None
    adaptation_curve: tuple[NonNegative, ...] = (0, 1, 3, 5, 10, 20)
    n_curve_tasks: Count = 50
    tune_rates: tuple[Rate, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    tune_steps: tuple[NonNegative, ...] = (0, 1, 3, 5, 10, 20, 50, 100)
    train_threads: Count = 1
    memory_budget: str | int | None = None
    measure_memory: bool = False
    train_n_way: Annotated[int, Field(ge=2)] | None = None
    tune_scales: tuple[Rate, ...] = ()

    @property
    def metric(self) -> str | None:
        """The metric learner, where the method is one."""
        return self.method if self.method in METRIC_LEARNERS else None

    @property
    def validation_steps(self) -> int:
        """Inner steps at the validations during training."""
        if self.metric:
            return 0
        return self.inner_steps if self.eval_inner_steps is None else self.eval_inner_steps

    @property
    def rate_choices(self) -> tuple[float, ...]:
        """Inner rates that meta-validation chooses from for the test."""
        return tuple(sorted({*self.tune_rates, self.inner_lr}))

    @property
    def step_choices(self) -> tuple[int, ...]:
        """Numbers of inner steps that meta-validation chooses from for the test."""
        return tuple(sorted({*self.tune_steps, self.inner_steps, self.validation_steps}))

    @property
    def estimator(self) -> tuple[str, Curvature]:
        """The meta-gradient estimator and its curvature, whatever the method is called."""
        return self.method, self.curvature

    @property
    def tasks_apart(self) -> bool:
        """Whether the model computes each task's numbers from that task alone, so that trials may share calls."""
        return False

    @property
    def batch_statistics(self) -> bool:
        """Whether the model normalises with the statistics of each batch."""
        return False

    @property
    def first_order_alone(self) -> tuple[str, str] | None:
        """What of the model has no second derivatives, and the setting that has."""
        return None

    def stack_kind(self) -> Mapping[str, object] | None:
        method, curvature = self.estimator
        estimated = method in JOINING and (method != "maml" or curvature in JOINING_CURVATURES)
        measured = self.budget == "compute" or self.measure_memory or self.memory_budget is not None
        aligned = self.meta_batch % JOINED_TASKS == 0 and self.inner_clip is None and self.rates_by != "mode"
        joins = self.kind == "meta" and self.tasks_apart and estimated and aligned and not measured
        return self.without(FREE_IN_A_STACK) if joins else None

    def source_fields(self, seed: int) -> FewShotSettings:
        """The arguments that every few-shot source of classes takes."""
        fields: FewShotSettings = {
            "n_way": self.n_way,
            "k_shot": self.k_shot,
            "n_query": self.n_query,
            "n_train_tasks": self.n_tasks,
            "n_validation_tasks": self.n_validation_tasks,
            "n_test_tasks": self.n_test_tasks,
            "seed": seed,
            "n_train_classes": self.n_train_classes,
            "labels": self.labels,
            "classes": self.classes,
        }
        if self.kind == "meta" and self.train_n_way is not None:
            fields["train_n_way"] = self.train_n_way
        return fields

    @property
    def outer_steps(self) -> int:
        """Outer steps of training at most."""
        if self.budget != "visits":
            return self.max_steps
        if self.n_tasks is None:
            raise InputError(
                "budget 'visits' needs a number for n_tasks; with endless tasks use 'steps' or 'converged'"
            )
        return max(1, round(self.visits_per_task * self.n_tasks / self.meta_batch))

    def refuse(self, where: str) -> None:
        for key in ("adapt", "tune_rates", "tune_steps"):
            if not getattr(self, key):
                raise InputError(f"{where}: '{key}' needs at least one value", field=key, value=())
        refuse_combination(self, where)
        if self.kind == "meta" and self.budget == "visits":
            _ = self.outer_steps


METRIC_LEARNERS = ("protonet", "r2d2", "metaoptnet")
LEARNERS = ("reptile", "fomaml", "maml", "imaml", *METRIC_LEARNERS)


def refuse_combination(config: FewShotConfig, where: str) -> None:
    """
    Raises:
        InputError: settings that do not go together; the message names both and what to do.
    """
    method, curvature = config.estimator
    if (config.kind == "meta") != (method in LEARNERS):
        raise InputError(
            f"{where}: method '{config.method}' does not go with kind '{config.kind}'; a meta-learner is one of "
            f"{', '.join(LEARNERS)}, and baselines run beside it by themselves"
        )
    if (config.budget == "compute") != (config.budget_flops is not None):
        raise InputError(f"{where}: budget=compute and budget_flops go together; give both or neither")
    _refuse_idle_optimizer_keys(config, where)
    if config.memory_budget is not None:
        parse_bytes(config.memory_budget, f"{where}: memory_budget")
    if config.learn_rates and method in ("reptile", "imaml"):
        name = "Reptile" if method == "reptile" else "implicit MAML"
        raise InputError(f"{where}: {name} has no gradient for learn_rates; use method=maml or method=fomaml")
    if config.rates_by != "element" and not config.learn_rates:
        raise InputError(
            f"{where}: rates_by={config.rates_by} is of learnt rates; set learn_rates=true too", field="rates_by"
        )
    if config.kind == "meta" and config.train_n_way is not None and not config.metric:
        raise InputError(
            f"{where}: train_n_way goes with {' or '.join(METRIC_LEARNERS)}; method={config.method} has a head for "
            f"n_way={config.n_way} classes",
            field="train_n_way",
            value=config.train_n_way,
        )
    if config.kind == "meta" and config.tune_scales and not config.metric:
        raise InputError(
            f"{where}: tune_scales goes with {' or '.join(METRIC_LEARNERS)}; method={config.method} adapts its scale "
            "by inner steps",
            field="tune_scales",
            value=config.tune_scales,
        )
    if config.kind == "meta" and (config.multi_step or config.first_order_steps) and method != "maml":
        key = "multi_step" if config.multi_step else "first_order_steps"
        raise InputError(f"{where}: {key} goes with method=maml, not {method}", field=key)
    if config.learn_rates and config.metric:
        raise InputError(f"{where}: method={method} takes no inner steps, so there are no rates to learn")
    _refuse_idle_head(config, where)
    if method == "imaml" and curvature == "none":
        raise InputError(f"{where}: method=imaml needs a curvature other than none; without one use method=fomaml")
    if config.micro_batch is not None and config.batch_statistics:
        raise InputError(f"{where}: micro_batch would change the batch statistics of a convolutional net; leave it out")
    if method in ("maml", "imaml"):
        if curvature == "diagonal" and config.batch_statistics:
            raise InputError(
                f"{where}: curvature=diagonal needs one gradient an example, which batch statistics do not allow; "
                "use diagonal_hutchinson"
            )
        identity = method == "imaml" and config.cg_steps == 0 and config.adapt == ("*",)
        if config.first_order_alone and curvature not in FIRST_ORDER and not identity:
            lacking, remedy = config.first_order_alone
            raise InputError(
                f"{where}: method={config.method} with curvature={curvature} needs second derivatives, which "
                f"{lacking} lacks; set {remedy}, or curvature to one of {', '.join(FIRST_ORDER)}"
            )


def _refuse_idle_head(config: FewShotConfig, where: str) -> None:
    """
    Raises:
        InputError: a head that would never leave its start.
    """
    head = getattr(config, "head", "learned")
    if head == "shared" and config.method == "reptile":
        raise InputError(
            f"{where}: Reptile moves a parameter to where adaptation took it, and head=shared is where heads start, "
            "which does not adapt; use head=zero or learned, or method=maml",
            field="head",
            value=head,
        )
    frozen = not any(fnmatchcase("head.weight", pattern) for pattern in config.adapt)
    if head in ("zero", "shared") and frozen and config.kind == "meta" and not config.metric:
        raise InputError(
            f"{where}: with head={head} all classes start alike, and adapt={list(config.adapt)} never moves the head, "
            "so nothing is learnt; add 'head*' to adapt, or use head=learned",
            field="head",
            value=head,
        )


def _refuse_idle_optimizer_keys(config: FewShotConfig, where: str) -> None:
    """
    Raises:
        InputError: a setting of another optimiser, or a warm-up as long as the training.
    """
    for loop, kind in (("inner", config.inner_optimizer), ("outer", config.outer_optimizer)):
        needs = {"momentum": ("sgd",), "beta1": ("adam", "adamw"), "beta2": ("adam", "adamw")}
        needs |= {"weight_decay": ("sgd", "adamw")} if loop == "outer" else {}
        for part, kinds in needs.items():
            key = f"{loop}_{part}"
            value = getattr(config, key)
            if value != getattr(type(config), key) and kind not in kinds:
                allowed = " or ".join(kinds)
                raise InputError(
                    f"{where}: {key} goes with {loop}_optimizer={allowed}, not {kind}", field=key, value=value
                )
    known = config.kind == "meta" and config.budget != "compute" and (config.budget != "visits" or config.n_tasks)
    if known and config.outer_warmup >= config.outer_steps:
        raise InputError(
            f"{where}: outer_warmup must be below the {config.outer_steps} outer steps, not {config.outer_warmup}",
            field="outer_warmup",
            value=config.outer_warmup,
        )


LEARNER_KEYS = frozenset(
    {"kind", "method", "n_tasks", "n_train_classes", "train_n_way", "meta_batch", "inner_lr", "inner_steps"}
    | {
        "learn_rates",
        "rates_by",
        "multi_step",
        "first_order_steps",
        "reptile_data",
        "curvature",
        "curvature_probes",
        "proximal",
        "cg_steps",
    }
    | {
        "outer_optimizer",
        "outer_lr",
        "outer_clip",
        "outer_momentum",
        "outer_beta1",
        "outer_beta2",
        "outer_weight_decay",
    }
    | {"outer_schedule", "outer_warmup", "outer_final_rate", "outer_decay_share"}
    | {"budget", "max_steps", "visits_per_task", "budget_flops"}
    | {"eval_every", "patience", "min_delta", "train_threads", "memory_budget", "measure_memory"}
    | {"tune_scales"}
    | {"n_curve_tasks", "adaptation_curve", "eval_inner_steps", "micro_batch", "checkpointing", "task_execution"}
)
"""Keys that change meta-training alone. A baseline is the same whatever they are; every other axis changes it."""

LATER_KEYS: Mapping[str, object] = {
    "train_n_way": None,
    "n_clean": None,
    "frozen": False,
    "hidden": 128,
    "norm_by": "all",
    "tune_scales": [],
}
"""Keys that are younger than recorded studies: at this value a study leaves them out, so that ids of trials stay."""

Config = TypeVar("Config", bound=TrialConfig)

FILE_KEYS = ("path",)
"""Keys that name a file which trials read."""


def absolute_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a configuration with files and models' folders by absolute paths, ``~`` expanded."""
    return {key: _absolute(key, value) for key, value in values.items()}


def _absolute(key: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_absolute(key, item) for item in value]
    a_file = key in FILE_KEYS and isinstance(value, str) and value
    a_folder = key == "backbone" and isinstance(value, str) and value.startswith(("~", "."))
    return os.path.abspath(os.path.expanduser(value)) if a_file or a_folder else value


_ADAPTERS: dict[type[TrialConfig], TypeAdapter[Any]] = {}
"""Built once a class: it takes longer than all else that a study's validation does."""


def plural_keys(kind: type[TrialConfig]) -> frozenset[str]:
    """Keys whose value is itself a list."""

    def plural(hint: object) -> bool:
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]
        return any(get_origin(part) is tuple for part in parts)

    return frozenset(key for key, hint in get_type_hints(kind).items() if plural(hint))


def text_keys(kind: type[TrialConfig]) -> frozenset[str]:
    """Keys whose value is a text, or a text or nothing."""
    texts = (str, str | None)
    return frozenset(key for key, hint in get_type_hints(kind).items() if hint in texts)


def _refuse_redeclared(kind: type[TrialConfig]) -> None:
    """A key declared again loses the range that its base gave it; other choices of a ``Literal`` may be named again.

    Raises:
        InputError: the class declares a key of its base again.
    """
    hints = get_type_hints(kind)
    for place, owner in enumerate(kind.__mro__):
        for key in vars(owner).get("__annotations__", {}):
            above = any(key in vars(base).get("__annotations__", {}) for base in kind.__mro__[place + 1 :])
            if above and key in hints and get_origin(hints[key]) is not Literal and not key.startswith("__"):
                raise InputError(
                    f"{owner.__name__} declares '{key}' again, which loses its range; put the value into the recipe's "
                    "defaults",
                    field=key,
                )


def validate(kind: type[Config], values: Mapping[str, object], where: str) -> Config:
    """``values`` as a configuration of that class.

    Raises:
        InputError: one sentence with the key, the nearest allowed key for an unknown one, and the allowed range.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in values.items():
        if key not in known:
            near = hint(key, known) or suggest(key, known, "allowed keys are")
            raise InputError(f"{where}: there is no key '{key}'; {near}", field=key, value=value)
    if kind not in _ADAPTERS:
        _refuse_redeclared(kind)
        _ADAPTERS[kind] = TypeAdapter(kind)
    try:
        checked: Config = _ADAPTERS[kind].validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if not str(part).startswith(("constrained", "function")))
        message = first["msg"][0].lower() + first["msg"][1:]
        raise InputError(
            f"{where}: the value {first['input']!r} of '{key}' is not allowed: {message}",
            field=key,
            value=first["input"],
            allowed=message,
        ) from error
    checked.refuse(where)
    return checked
