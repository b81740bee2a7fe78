"""Any torch module as a model of T tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from metascale.core.columns import IGNORED
from metascale.core.errors import InputError
from metascale.core.nested import Nested, unflatten
from metascale.core.streams import address
from metascale.core.types import Batch, Params, TaskExecution, require_same_shape
from metascale.models.functional import BatchStatistics, TaskFunction, call
from metascale.models.network import cross_entropy_each

Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Outputs [B, ...] and targets [B, ...] of one task to their mean loss, or to one loss an example [B]."""


class Module:
    """A torch module, with a loss, that takes part wherever a model does: parameters and batches of T tasks.

    The module itself is never changed. Inputs reach it as the batch names them: ``x`` and numbers are positional, other
    names keywords, with ways such as ``pixels.left`` as nested mappings and tuples (`core.nested`). Task t's outputs
    depend on task t's parameters alone. All tasks run in one call under `torch.func.vmap`, or one after another where
    that does not work (an LSTM's kernel, an operator of your own): a trial of two tasks decides, on ``example`` when
    the model is made, else on the first batch. ``execution`` says what was found, and why; so does the log, once.

    Dropout of every kind (layers, functions, in attention) has its masks by address: the same number the same masks,
    and an example keeps its own in every part of its batch. Attention runs as matrix products, which can be
    differentiated twice. Parameters with ``requires_grad=False`` stay what they are, and tied ones are one parameter.

    Args:
        net: the module, whose weights are where learning starts, whatever the seed; or a function without arguments (a
            class, say) that makes one, called once for every seed with torch's generators set by it.
        loss: ``"cross_entropy"`` (nats; classes last, or second as torch has them; targets of −100 do not count),
            ``"squared_error"`` or ``"mse"`` (the mean of squares), or a function of one task's outputs and targets.
        start: ``"weights"``, as the module comes; ``"seed"``: every part drawn anew by its ``reset_parameters``.
            Default: weights for a module, the seed for a function that makes one.
        batch_statistics: what batch normalisation uses, in training and prediction alike. ``"batch"``: the statistics
            of the batch at hand (MAML; predictions for a query set are transductive). ``"per_step"``: likewise, with a
            gain and a shift for each inner step (Antoniou et al. 2019, arXiv 1810.09502, section 4, as their code has
            it, which normalises by the batch also when it is tested); needs ``steps``. ``"frozen"``: the running
            statistics that the module comes with.
        steps: inner steps that have a gain and a shift of their own; later ones share the last.
        train: patterns (shell style) of the parameters that are learnt at all; the rest stays as it is. To adapt only
            some in the inner loop is ``InnerLoop(adapt=...)``.
        output: picks the outputs [B, ...] from what the module returns; default: the tensor, its ``logits``, or the
            first of a tuple.
        head: the submodule whose input are the features; default: the last ``Linear`` that runs, else the outputs are.
        example: a batch of the kind to come, to find out at once how tasks can run.
        loop: run tasks one after another without a trial.

    Raises:
        InputError: an argument outside its range; no parameter to learn; a part that cannot be drawn anew.
    """

    def __init__(
        self,
        net: nn.Module | Callable[[], nn.Module],
        loss: Literal["cross_entropy", "squared_error", "mse"] | Loss = "cross_entropy",
        *,
        start: Literal["weights", "seed"] | None = None,
        batch_statistics: BatchStatistics = "batch",
        steps: int | None = None,
        train: Sequence[str] = ("*",),
        output: Callable[[object], torch.Tensor] | None = None,
        head: str | None = None,
        example: Batch | None = None,
        loop: bool = False,
    ) -> None:
        self._make = None if isinstance(net, nn.Module) else net
        self.net = net if isinstance(net, nn.Module) else _seeded(net, 0)
        self.loss = "squared_error" if loss == "mse" else loss
        self.output, self.steps = output, steps
        self.start = start or ("weights" if self._make is None else "seed")
        self.statistics = batch_statistics
        self._check(train)
        self._names = tuple(
            name
            for name, value in self.net.named_parameters()
            if value.requires_grad and any(fnmatchcase(name, pattern) for pattern in train)
        )
        if not self._names:
            had = ", ".join(name for name, _ in self.net.named_parameters()) or "none"
            raise InputError(
                f"no parameter to learn: those with requires_grad=True that match {list(train)} are none of {had}",
                field="train",
            )
        norms = {name: part for name, part in self.net.named_modules() if isinstance(part, _NormBase)}
        own = {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}
        self._per_step = frozenset(own & set(self._names)) if batch_statistics == "per_step" else frozenset()
        if batch_statistics == "per_step" and not self._per_step:
            raise InputError(
                "batch_statistics='per_step' needs batch normalisation with a gain and a shift to learn, which the "
                "module lacks",
                field="batch_statistics",
            )
        coupling = [part for part in norms.values() if isinstance(part, _BatchNorm)]
        self._couples = any(batch_statistics != "frozen" or not part.track_running_stats for part in coupling)
        self._head = self._named_head(head)
        self._step = 0
        self._outputs = TaskFunction(self.net, batch_statistics, self._single, loop)
        if example is not None:
            self._outputs.examine(self._stacked(example.n_tasks), example.inputs)

    def _check(self, train: Sequence[str]) -> None:
        for field, value, allowed in (
            ("start", self.start, ("weights", "seed")),
            ("batch_statistics", self.statistics, get_args(BatchStatistics)),
        ):
            if value not in allowed:
                raise InputError(
                    f"{field} must be {' or '.join(map(repr, allowed))}, not {value!r}", field=field, value=value
                )
        if not callable(self.loss) and self.loss not in ("cross_entropy", "squared_error"):
            raise InputError(
                f"loss must be 'cross_entropy', 'squared_error' ('mse') or a function, not {self.loss!r}", field="loss"
            )
        if isinstance(train, str):
            raise InputError(f"train must be a list of patterns, such as [{train!r}], not a text", field="train")
        if self.statistics == "per_step" and (not isinstance(self.steps, int) or self.steps < 1):
            raise InputError(
                f"batch_statistics='per_step' needs steps, the number of inner steps (at least 1), not {self.steps!r}",
                field="steps",
            )
        if self.statistics != "per_step" and self.steps is not None:
            raise InputError(f"steps belongs to batch_statistics='per_step', not to {self.statistics!r}", field="steps")
        if self.start == "seed" and self._make is None:
            _refuse_parts_without_a_draw(self.net)

    def _named_head(self, head: str | None) -> str | None:
        if head is not None and head not in dict(self.net.named_modules()):
            linear = [name for name, part in self.net.named_modules() if isinstance(part, nn.Linear)]
            raise InputError(f"the module has no part '{head}'; linear ones are {', '.join(linear)}", field="head")
        return head

    # --- the model ---

    def init(self, seed: int) -> Params:
        """The trainable tensors; gains and shifts [steps, ...] where each step has its own."""
        source = self.net
        if self.start == "seed":
            source = _seeded(self._make, seed) if self._make is not None else _drawn_anew(self.net, seed)
        values = dict(source.named_parameters())
        found = {name: values[name].detach().clone() for name in self._names}
        return {
            name: value.expand(self.steps, *value.shape).clone() if name in self._per_step and self.steps else value
            for name, value in found.items()
        }

    def begin(self, params: Params, support: Batch) -> Params:
        """The whole module is meta-learnt: nothing is made afresh."""
        return params

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean losses."""
        return self.output_losses(self.predict(params, batch, dropout), batch)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, ...] what the module gives out."""
        numbers = None if dropout is None else batch.numbered().numbers
        return self._outputs(self._of_step(params), batch.inputs, numbers, dropout)

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, d] what the head reads; the mean over positions where it reads several."""
        return self._outputs(self._of_step(params), batch.inputs, single=self._single_features)

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] mean losses of outputs [T, B, ...].

        Raises:
            InputError: outputs and targets do not fit one another, or the loss gives something else than losses.
        """
        finding = self._outputs.finding
        if callable(self.loss) and (finding is None or finding.loop is None):
            try:
                found: torch.Tensor = torch.func.vmap(self._loss_of_one)(outputs, batch.targets)
                return found
            except RuntimeError as error:
                if "vmap" not in str(error) and "functorch" not in str(error):
                    raise
        return torch.stack([self._loss_of_one(own, given) for own, given in zip(outputs, batch.targets, strict=True)])

    @property
    def own_loss(self) -> bool:
        """Evaluation asks the module's own loss (`output_losses`)."""
        return True

    @property
    def batch_statistics(self) -> bool:
        """Whether an output depends on the other examples of its batch."""
        return self._couples

    @property
    def task_execution(self) -> TaskExecution:
        finding = self._outputs.finding
        return "threads" if finding is not None and finding.loop else "stacked"

    @property
    def execution(self) -> str:
        """How tasks run, and why."""
        finding = self._outputs.finding
        if finding is None:
            return "not yet known: the first batch decides"
        return f"one after another: {finding.loop}" if finding.loop else "all in one call"

    def require_second_order(self) -> None:
        """
        Raises:
            InputError: a trial found an operator that has no second derivative.
        """
        finding = self._outputs.finding
        if finding is not None and finding.once:
            raise InputError(f"the module cannot be differentiated twice ({finding.once}): use FOMAML or Reptile")

    def at_step(self, step: int) -> Module:
        """The model as inner step ``step`` (from 0) sees it: itself unless steps have gains and shifts of their own."""
        if not self._per_step:
            return self
        found = copy.copy(self)
        found._step = step
        return found

    def network(self, params: Params) -> nn.Module:
        """A copy of the module with these parameters: meta-learnt ones, or one task's adapted ones.

        Args:
            params: without a task axis, as ``init`` gives them.

        Raises:
            InputError: other names or shapes than those of ``init``; each step has a gain and a shift of its own.
        """
        if self._per_step:
            raise InputError("a plain module has one gain and shift, not one for each step", field="batch_statistics")
        found = copy.deepcopy(self.net)
        own = dict(found.named_parameters())
        if set(params) != set(self._names):
            raise InputError(f"the module's parameters are {', '.join(self._names)}, not {', '.join(params)}")
        with torch.no_grad():
            for name, value in params.items():
                if own[name].shape != value.shape:
                    raise InputError(f"'{name}' must have shape {list(own[name].shape)}, not {list(value.shape)}")
                own[name].copy_(value)
        return found

    # --- one task ---

    def _single(self, module: nn.Module, tensors: Params, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        arguments, named = _arguments(inputs)
        return self._picked(call(module, tensors, arguments, named))

    def _picked(self, returned: object) -> torch.Tensor:
        if self.output is not None:
            return self.output(returned)
        if isinstance(returned, Mapping) and "logits" in returned:
            returned = returned["logits"]
        else:
            returned = getattr(returned, "logits", returned)
        if isinstance(returned, tuple | list) and returned:
            returned = returned[0]
        if not isinstance(returned, torch.Tensor):
            raise InputError(
                f"the module returns {type(returned).__name__} without logits: say with output= which tensor is meant",
                field="output",
            )
        return returned

    def _single_features(self, module: nn.Module, tensors: Params, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        read: list[torch.Tensor] = []
        heads = [
            part
            for name, part in module.named_modules()
            if (name == self._head if self._head is not None else isinstance(part, nn.Linear))
        ]
        hooks = [part.register_forward_pre_hook(lambda _, given: read.append(given[0])) for part in heads]
        try:
            outputs = self._single(module, tensors, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        found, n_examples = (read[-1] if read else outputs), len(next(iter(inputs.values())))
        if found.shape[0] != n_examples:
            found = found.reshape(n_examples, -1, found.shape[-1])
        return found.flatten(1, -2).mean(1) if found.ndim > 2 else found.reshape(n_examples, -1)

    def _loss_of_one(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.loss == "cross_entropy":
            return _cross_entropy(outputs, targets)
        if self.loss == "squared_error":
            require_same_shape(outputs, targets)
            return (outputs - targets).square().mean()
        found = self.loss(outputs, targets)
        if not isinstance(found, torch.Tensor):
            raise InputError(f"the loss must give a tensor, not {type(found).__name__}", field="loss")
        if found.ndim and found.shape != targets.shape[:1]:
            raise InputError(
                f"the loss must give one number, or one an example [{len(targets)}], not {list(found.shape)}",
                field="loss",
            )
        return found.mean()

    def _of_step(self, params: Params) -> Params:
        """Of gains and shifts [T, steps, ...] those of this step."""
        if not self._per_step:
            return params
        row = min(self._step, (self.steps or 1) - 1)
        return {name: value[:, row] if name in self._per_step else value for name, value in params.items()}

    def _stacked(self, n_tasks: int) -> Params:
        values = dict(self.net.named_parameters())
        return {name: values[name].detach().expand(n_tasks, *values[name].shape) for name in self._names}


def _arguments(inputs: dict[str, torch.Tensor]) -> tuple[tuple[Nested, ...], dict[str, Nested]]:
    """Positional and keyword arguments."""
    named = unflatten(inputs)
    places = sorted((name for name in named if name.isdigit()), key=int)
    if set(named) == {"x"}:
        return (named["x"],), {}
    return tuple(named[place] for place in places), {n: value for n, value in named.items() if not n.isdigit()}


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean over examples of the mean over an example's targets that count."""
    last, second = outputs.shape[:-1] == targets.shape, (outputs.shape[0], *outputs.shape[2:]) == targets.shape
    if targets.is_floating_point():
        raise InputError("cross_entropy needs targets that are classes (integers)", field="loss")
    if last == second and outputs.ndim != 2:
        raise InputError(
            f"cross_entropy cannot tell which axis of outputs {list(outputs.shape)} are the classes of targets "
            f"{list(targets.shape)}: give a loss of your own",
            field="loss",
        )
    if not last and not second:
        raise InputError(
            f"outputs {list(outputs.shape)} do not fit targets {list(targets.shape)}: cross_entropy needs one more "
            "axis, of classes",
            field="loss",
        )
    scores = outputs.movedim(-1, 1) if last else outputs
    each = cross_entropy_each(scores, targets)
    if each.ndim == 1:
        return each.mean()
    counts = (targets != IGNORED).flatten(1).sum(1).clamp_min(1)
    return (each.flatten(1).sum(1) / counts).mean()


def _seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A module made with torch's generators set by the seed, which are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(address(seed, "init", "module") & (2**63 - 1))
        found = make() if callable(make) else make
    if not isinstance(found, nn.Module):
        raise InputError(
            f"net must be a torch module or a function that makes one, not of {type(found).__name__}", field="net"
        )
    return found


def _refuse_parts_without_a_draw(net: nn.Module) -> None:
    bare = [
        name or type(part).__name__
        for name, part in net.named_modules()
        if next(part.parameters(recurse=False), None) is not None and _draw_of(part) is None
    ]
    if bare:
        raise InputError(
            f"start='seed' draws parts anew by their reset_parameters, which {', '.join(bare)} lacks; give a function "
            "that makes the module instead, such as lambda: Net()",
            field="start",
        )


def _draw_of(part: nn.Module) -> Callable[[], object] | None:
    found = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
    return cast("Callable[[], object] | None", found)


def _drawn_anew(net: nn.Module, seed: int) -> nn.Module:
    """A copy in which every part has drawn its parameters, each from the stream of its name."""
    found = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]):
        for name, part in found.named_modules():
            if (draw := _draw_of(part)) is not None:
                torch.default_generator.manual_seed(address(seed, "init", name) & (2**63 - 1))
                draw()
    return found
