"""A torch module as a pure function of tensors, for T tasks in one call.

The tasks run under `torch.func.vmap` where that gives what a loop over tasks gives, and in that loop where it does not.
"""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from metascale.core.errors import InputError
from metascale.core.nested import Nested
from metascale.core.types import Params
from metascale.models.addressed import AddressedRandomness, TwiceDifferentiable, Watched, example_axes

_log = logging.getLogger("metascale.models")

BatchStatistics: TypeAlias = Literal["batch", "per_step", "frozen"]
Single: TypeAlias = Callable[[nn.Module, Params, dict[str, torch.Tensor]], torch.Tensor]
"""(module, its tensors, the named tensors of one task [B, ...]) to outputs [B, ...]."""


@dataclass(frozen=True)
class Finding:
    """What a trial of the module on two tasks showed.

    Args:
        loop: why tasks run in a loop, or ``None``: they run under vmap.
        masks: of each dropout mask of a forward pass in training mode, the axis of the examples (see
            `AddressedRandomness`); none where the module does not drop out.
        attends: attention has to be computed by matrix products.
        written: names of the buffers that a forward pass writes to; each pass gets copies of them.
        once: why losses cannot be differentiated twice, or ``None``.
    """

    loop: str | None
    masks: tuple[int | None, ...]
    attends: bool
    written: tuple[str, ...]
    once: str | None


class TaskFunction:
    """Runs ``single`` for T tasks, on parameters given as tensors [T, ...].

    Args:
        net: the module; its parameters and buffers are only read.
        statistics: of batch normalisation: those of the batch at hand, or the running ones (``"frozen"``).
        single: one task's outputs.
        loop: run tasks in a loop without a trial.
    """

    def __init__(self, net: nn.Module, statistics: BatchStatistics, single: Single, loop: bool) -> None:
        self._net, self._statistics, self._single, self._loop = net, statistics, single, loop
        self._finding: Finding | None = None
        self._local, self._lock = threading.local(), threading.Lock()
        self._placed: dict[tuple[torch.device, torch.dtype], Params] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_local": None, "_lock": None, "_placed": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local, self._lock = threading.local(), threading.Lock()

    @property
    def finding(self) -> Finding | None:
        """What the trial showed; ``None`` before it."""
        return self._finding

    def __call__(
        self,
        params: Params,
        inputs: Mapping[str, torch.Tensor],
        numbers: torch.Tensor | None = None,
        key: int | None = None,
        single: Single | None = None,
    ) -> torch.Tensor:
        """Outputs [T, B, ...].

        Args:
            inputs: named tensors [T, B, ...].
            numbers: [T, B] integers that name the examples in dropout masks; needed where ``key`` is given.
            key: names the masks; ``None`` is evaluation.
            single: another function of one task than the one that a trial was made of.
        """
        finding = self.examine(params, inputs)
        masks = _Masks(key, numbers if finding.masks else None)
        return self._run(bool(finding.loop), single or self._single, params, inputs, masks, finding)

    def _run(
        self,
        loop: bool,
        single: Single,
        params: Params,
        inputs: Mapping[str, torch.Tensor],
        masks: _Masks,
        found: Finding,
    ) -> torch.Tensor:
        return (self._in_loop if loop else self._at_once)(single, params, inputs, masks, found)

    def examine(self, params: Params, inputs: Mapping[str, torch.Tensor]) -> Finding:
        """The finding of a trial on (at most) two of these tasks, which is made once."""
        if self._finding is None:
            with self._lock:
                if self._finding is None:
                    self._finding = self._trial(_two(params), _two(inputs))
        return self._finding

    def _trial(self, params: Params, inputs: Mapping[str, torch.Tensor]) -> Finding:
        found = self._watch(params, inputs)
        with torch.enable_grad():
            expected = self._sample(True, params, inputs, found)
        reason: str | None = None
        if self._loop:
            reason = "as asked for"
        else:
            reason = self._why_not_at_once(params, inputs, found, expected)
        if reason is not None and not self._loop:
            _log.warning("tasks run one after another, since vmap does not work here: %s", reason)
        return replace(found, loop=reason, once=_why_only_once(expected))

    def _why_not_at_once(
        self, params: Params, inputs: Mapping[str, torch.Tensor], found: Finding, expected: _Sample
    ) -> str | None:
        try:
            with warnings.catch_warnings(record=True) as said, torch.enable_grad():
                warnings.simplefilter("always")
                sample = self._sample(False, params, inputs, found)
        except InputError:
            raise
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            return str(error).splitlines()[0][:200]
        slow = [str(each.message) for each in said if "batching rule" in str(each.message)]
        if slow:
            return slow[0].splitlines()[0][:200]
        return _difference("outputs", {"": sample.outputs}, {"": expected.outputs}) or _difference(
            "gradients", sample.grads, expected.grads
        )

    def _sample(self, loop: bool, params: Params, inputs: Mapping[str, torch.Tensor], found: Finding) -> _Sample:
        leaves = {name: value.detach().requires_grad_(True) for name, value in params.items()}
        outputs = self._run(loop, self._single, leaves, inputs, _Masks(None, None), found)
        if not outputs.requires_grad:
            raise InputError("the module's outputs do not depend on the parameters that are learnt", field="net")
        weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype, device=outputs.device).view(outputs.shape)
        grads = torch.autograd.grad(
            (weights * outputs).sum() + outputs.square().sum(),
            list(leaves.values()),
            create_graph=True,
            materialize_grads=True,
        )
        return _Sample(outputs, dict(zip(leaves, grads, strict=True)), leaves)

    def _watch(self, params: Params, inputs: Mapping[str, torch.Tensor]) -> Finding:
        """Where the module drops out, whether it attends, and which buffers it writes to.

        Raises:
            InputError: it draws random numbers in evaluation, or numbers without an address in training.
        """
        own, first = {n: v[0].detach() for n, v in params.items()}, {n: v[0] for n, v in inputs.items()}
        attention = TwiceDifferentiable()
        fixed = {name: value.clone() for name, value in self._fixed(params).items()}
        before = {name: value._version for name, value in fixed.items()}

        def masks(given: dict[str, torch.Tensor], key: int | None) -> list[torch.Size]:
            like = next(iter(given.values()))
            with Watched(key, torch.arange(len(like), device=like.device)) as randomness:
                self._single(self._module(key is not None), {**fixed, **own}, given)
            shapes: list[torch.Size] = randomness.shapes
            return shapes

        with torch.no_grad(), attention:
            masks(first, None)
            axes: tuple[int | None, ...] = ()
            if shapes := masks(first, 0):
                axes = example_axes(shapes, masks({n: torch.cat([v, v[:1]]) for n, v in first.items()}, 0))
                axes = axes or (0,) * len(shapes)
        written = tuple(name for name, value in fixed.items() if value._version != before[name])
        return Finding(None, axes, attention.met, written, None)

    def _at_once(
        self, single: Single, params: Params, inputs: Mapping[str, torch.Tensor], masks: _Masks, found: Finding
    ) -> torch.Tensor:
        module, fixed = self._module(masks.key is not None), self._fixed(params, found.written)

        def one(own: Params, given: dict[str, torch.Tensor]) -> torch.Tensor:
            return single(module, {**fixed, **own}, given)

        with _modes(found, masks):
            outputs: torch.Tensor = torch.func.vmap(one, randomness=masks.randomness)(params, dict(inputs))
        return outputs

    def _in_loop(
        self, single: Single, params: Params, inputs: Mapping[str, torch.Tensor], masks: _Masks, found: Finding
    ) -> torch.Tensor:
        module, outputs = self._module(masks.key is not None), []
        for task in range(len(next(iter(params.values())))):
            own = {name: value[task] for name, value in params.items()}
            given = {name: value[task] for name, value in inputs.items()}
            fixed = self._fixed(params, found.written)
            with _modes(found, masks.of(task)):
                outputs.append(single(module, {**fixed, **own}, given))
        return torch.stack(outputs)

    def _module(self, training: bool) -> nn.Module:
        """This thread's own module, since a functional call puts tensors into it for as long as it lasts."""
        modules = getattr(self._local, "modules", None)
        if modules is None:
            modules = self._local.modules = tuple(_prepared(self._net, self._statistics, way) for way in (False, True))
        found: nn.Module = modules[training]
        return found

    def _fixed(self, params: Params, written: tuple[str, ...] = ()) -> Params:
        """Parameters that are not trained, and buffers, where and as precise as ``params``."""
        like = next(iter(params.values()))
        place = (like.device, like.dtype)
        if place not in self._placed:
            usual = next(value.dtype for name, value in self._net.named_parameters() if name in params)
            self._placed[place] = {
                name: value.detach().to(like.device, like.dtype if value.dtype == usual else None)
                for name, value in (*self._net.named_parameters(), *self._module(False).named_buffers())
                if name not in params
            }
        fixed = self._placed[place]
        return {**fixed, **{name: fixed[name].clone() for name in written}} if written else fixed


@dataclass(frozen=True)
class _Masks:
    """The masks of a pass: without a key it is evaluation; without numbers nothing is drawn."""

    key: int | None
    numbers: torch.Tensor | None

    @property
    def randomness(self) -> str:
        return "error" if self.numbers is None else "different"

    def of(self, task: int) -> _Masks:
        return self if self.numbers is None else _Masks(self.key, self.numbers[task])


@dataclass(frozen=True)
class _Sample:
    outputs: torch.Tensor
    grads: Params
    leaves: Params


def _difference(what: str, found: Params, expected: Params) -> str | None:
    """What differs by more than rounding, of the largest value among all."""
    size = max(1e-3, *(float(value.detach().abs().max()) for value in expected.values()))
    for name, wanted in expected.items():
        error = float((found[name] - wanted).detach().abs().max())
        if not error <= float(torch.finfo(wanted.dtype).eps) ** 0.5 * size:
            return f"{what}{f' of {name!r}' if name else ''} differ by {error:.2g} of {size:.2g}"
    return None


def _why_only_once(sample: _Sample) -> str | None:
    """Why a second derivative is lacking, or ``None``."""
    live = [grad for grad in sample.grads.values() if grad.requires_grad]
    if not live:  # that of a sum of squares depends on the parameters, unless an operator hides it
        return "an operator's gradient is cut off from what it depends on"
    try:
        slope = torch.stack([grad.sum() for grad in live]).sum()
        # Not `autograd.grad`: it leaves out what does not lead to its inputs, and so the error of once_differentiable.
        slope.backward()
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0][:200]
    return None


def _two(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first two tasks; of one task, that one twice."""
    return {
        name: (value[:2] if len(value) > 1 else value.expand(2, *value.shape[1:])) for name, value in tensors.items()
    }


@contextmanager
def _modes(found: Finding, masks: _Masks) -> Iterator[None]:
    with ExitStack() as stack:
        if found.attends:
            stack.enter_context(TwiceDifferentiable())
        if masks.numbers is not None:
            stack.enter_context(AddressedRandomness(masks.key, masks.numbers, found.masks))
        yield


def _prepared(net: nn.Module, statistics: BatchStatistics, training: bool) -> nn.Module:
    """The same tensors in containers of their own, in training or evaluation mode, normalising as asked."""
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    found = copy.deepcopy(net, shared).train(training)
    for part in found.modules():
        if isinstance(part, nn.RNNBase) and not training:
            part.dropout = 0.0
            part.train()  # cuDNN has no backward pass in evaluation mode
        if not isinstance(part, _NormBase) or not part.track_running_stats:
            continue
        if statistics == "frozen":
            part.eval()
        else:
            part.running_mean = part.running_var = part.num_batches_tracked = None
            part.track_running_stats = False
    return found


def call(module: nn.Module, tensors: Params, arguments: tuple[Nested, ...], named: Mapping[str, Nested]) -> Any:
    """``module(*arguments, **named)`` with these tensors in place of its own."""
    return torch.func.functional_call(module, tensors, arguments, dict(named))
