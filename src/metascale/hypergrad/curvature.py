"""Products of a vector with the curvature of T tasks' losses: the exact Hessian's, a difference of gradients, or none.

Task t's loss depends on task t's parameters alone, so one product with stacked tensors [T, ...] is every task's own.
A vector names some of the parameters (those that adapt) and is zero in the others; the product names them all.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.autograd.forward_ad as forward_ad

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import add, scale, tree_map, zeros_like
from metascale.core.types import Params


@dataclass(frozen=True, slots=True)
class LossPart:
    """One micro-batch of T losses, as functions of stacked parameters [T, ...].

    Args:
        losses: the mean loss of each task [T] on this micro-batch.
        weight: the micro-batch's share of the examples; the shares add up to one.
        outputs: the model's outputs [T, B, ...] under the same dropout masks, where they are known.
        output_losses: the losses [T] as a function of those outputs.
        example_losses: the losses [T·B] when every example is a task of its own (parameters [T·B, ...]), or ``None``
            where examples are coupled.
        n_examples: B.
    """

    losses: Callable[[Params], torch.Tensor]
    weight: float = 1.0
    outputs: Callable[[Params], torch.Tensor] | None = None
    output_losses: Callable[[torch.Tensor], torch.Tensor] | None = None
    example_losses: Callable[[Params], torch.Tensor] | None = None
    n_examples: int = 1


@dataclass(frozen=True, slots=True)
class LossPoint:
    """The parameters and losses at which a curvature is taken.

    Args:
        params: all parameters of the losses [T, ...]; their history is not used.
        parts: the micro-batches.
        streams: one address a task, for its random probes; needed by estimates that draw some.
    """

    params: Params
    parts: Sequence[LossPart]
    streams: tuple[int, ...] = ()


class Curvature(Protocol):
    """Estimates H_t v_t for every task t, where H_t is the Hessian of its loss at ``point``.

    ``second_order``: the model must have second derivatives (or forward-mode ones).
    """

    @property
    def second_order(self) -> bool: ...

    def __call__(self, point: LossPoint, vector: Params) -> Params: ...


def keeps_graph(curvature: Curvature) -> bool:
    """Whether a product holds the graph of a gradient: 2 to 3 times what a gradient itself holds."""
    return bool(getattr(curvature, "keeps_graph", False))


@dataclass(frozen=True)
class Exact:
    """The exact product, by differentiating the gradient once more (Pearlmutter 1994), one micro-batch at a time."""

    second_order: ClassVar[bool] = True
    keeps_graph: ClassVar[bool] = True

    def __call__(self, point: LossPoint, vector: Params) -> Params:
        def product(part: LossPart) -> Params:
            leaves, grads = gradient_graph(part, point.params, vector)
            return pull_back(grads, vector, leaves)

        return weighted_sum(point, product)


@dataclass(frozen=True)
class FiniteDifference:
    """[∇s(φ + hv) − ∇s(φ − hv)] / 2h with h = eps · (1 + ‖φ‖) / ‖v‖ for each task: an error of order h².

    Both gradients see the same examples and the same dropout masks, and no second derivative is taken.

    Args:
        eps: relative step; ``None`` is the cube root of the parameters' machine precision (0.005 in float32), where
            rounding and truncation balance. A model that computes in bfloat16 needs more, about 0.1.

    Raises:
        InputError: ``eps`` is not positive.
    """

    eps: float | None = None
    second_order: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.eps is not None and self.eps <= 0:
            raise InputError(f"eps of a finite difference must be positive, not {self.eps}", field="eps")

    def __call__(self, point: LossPoint, vector: Params) -> Params:
        step, inverse = self.steps(point.params, vector)
        names = tuple(point.params)
        _, upper = loss_and_gradient(point.parts, shifted(point.params, vector, step), names)
        _, lower = loss_and_gradient(point.parts, shifted(point.params, vector, -step), names)
        return {name: per_task(0.5 * inverse, value - lower[name]) for name, value in upper.items()}

    def steps(self, params: Params, vector: Params) -> tuple[torch.Tensor, torch.Tensor]:
        """h [T] and 1/h [T]; both zero for a task whose vector is zero."""
        size = norm_per_task(vector)
        eps = torch.finfo(size.dtype).eps ** (1 / 3) if self.eps is None else self.eps
        step = eps * (1 + norm_per_task({name: params[name] for name in vector}))
        alive = size > 0
        safe = torch.where(alive, size, 1.0)
        return torch.where(alive, step / safe, 0.0), torch.where(alive, size / step, 0.0)


@dataclass(frozen=True)
class Zero:
    """No curvature: first-order meta-gradients."""

    second_order: ClassVar[bool] = False

    def __call__(self, point: LossPoint, vector: Params) -> Params:
        return zeros_like(point.params)


def loss_and_gradient(
    parts: Sequence[LossPart], params: Params, names: Sequence[str], *, create_graph: bool = False
) -> tuple[torch.Tensor, Params]:
    """Losses [T] and every task's own gradient with respect to the named parameters, over weighted micro-batches.

    With ``create_graph`` both are differentiable functions of ``params``; otherwise one micro-batch's graph at a time
    is alive and the results carry no history.
    """
    if create_graph:
        leaves = {
            name: value if value.requires_grad else value.detach().requires_grad_(name in names)
            for name, value in params.items()
        }
    else:
        leaves = {name: value.detach().requires_grad_(name in names) for name, value in params.items()}
    losses: torch.Tensor | None = None
    grads: Params | None = None
    for part in parts:
        with torch.enable_grad():
            found = part.losses(leaves)
            wanted = [leaves[name] for name in names]
            pieces = torch.autograd.grad(found.sum(), wanted, create_graph=create_graph, materialize_grads=True)
        values = dict(zip(names, pieces, strict=True))
        if not create_graph:
            found = found.detach()
        if len(parts) == 1:
            return found, values
        losses = part.weight * found if losses is None else losses + part.weight * found
        grads = scale(values, part.weight) if grads is None else add(grads, values, part.weight)
    assert losses is not None
    assert grads is not None
    return losses, grads


def losses_of(parts: Sequence[LossPart], params: Params) -> torch.Tensor:
    """Losses [T] without history, over weighted micro-batches."""
    with torch.no_grad():
        return torch.stack([part.weight * part.losses(params) for part in parts]).sum(0)


def gradient_graph(part: LossPart, params: Params, names: Sequence[str] | Params) -> tuple[Params, Params]:
    """Fresh leaves for all parameters, and the gradient of the named ones as a function of them."""
    leaves = {name: value.detach().requires_grad_(True) for name, value in params.items()}
    with torch.enable_grad():
        losses = part.losses(leaves)
        pieces = torch.autograd.grad(
            losses.sum(), [leaves[name] for name in names], create_graph=True, materialize_grads=True
        )
    return leaves, dict(zip(names, pieces, strict=True))


def pull_back(outputs: Params, weights: Params, leaves: Params, *, keep: bool = False) -> Params:
    """Σ weightsᵀ ∂outputs/∂leaves; outputs that do not depend on the leaves contribute nothing."""
    live = [name for name, value in outputs.items() if value.requires_grad]
    if not live:
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    found = torch.autograd.grad(
        [outputs[name] for name in live],
        list(leaves.values()),
        [weights[name].to(outputs[name].dtype) for name in live],
        materialize_grads=True,
        retain_graph=keep,
    )
    return dict(zip(leaves, found, strict=True))


def weighted_sum(point: LossPoint, product: Callable[[LossPart], Params]) -> Params:
    """Σ weight · product over the micro-batches, one at a time."""
    total: Params | None = None
    for part in point.parts:
        found = product(part)
        if len(point.parts) == 1:
            return found
        total = scale(found, part.weight) if total is None else add(total, found, part.weight)
    assert total is not None
    return total


def per_task(factors: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value`` [T, ...] times one factor a task [T]."""
    return factors.to(value.dtype).view(-1, *[1] * (value.ndim - 1)) * value


def norm_per_task(x: Params) -> torch.Tensor:
    """[T] Euclidean norms over every tensor of a task."""
    return torch.stack([value.reshape(len(value), -1).square().sum(1) for value in x.values()]).sum(0).sqrt()


def shifted(params: Params, direction: Params, step: torch.Tensor) -> Params:
    """params + step_t · direction for each task; names without a direction stay."""
    return {n: v + per_task(step, direction[n]) if n in direction else v for n, v in params.items()}


def probe_signs(point: LossPoint, names: Sequence[str], n_probes: int) -> Iterator[Params]:
    """``n_probes`` sets of independent random signs [T, ...], each task's from its own stream."""
    if len(point.streams) != len(next(iter(point.params.values()))):
        raise InputError(f"random probes need one stream a task, not {len(point.streams)}")
    for probe in range(n_probes):
        generators = [torch_generator(stream, "curvature-probe", probe) for stream in point.streams]
        signs: Params = {}
        for name in names:
            like = point.params[name]
            drawn = [torch.randint(0, 2, like.shape[1:], generator=g, dtype=torch.int8) for g in generators]
            signs[name] = (2 * torch.stack(drawn) - 1).to(like)
        yield signs


def layer_of(name: str) -> str:
    """The layer of a parameter: its name up to the first number, or without its last component.

    ``encoder.layer.3.attention.query.lora_A`` is in ``encoder.layer.3``, with every adapter of that Transformer block;
    ``layer0.weight`` is in ``layer0`` and ``head.bias`` in ``head``.
    """
    components = name.split(".")
    for index, component in enumerate(components):
        if component.isdigit():
            return ".".join(components[: index + 1])
    return ".".join(components[:-1]) or name


@dataclass(frozen=True)
class BlockDiagonal:
    """H_bb v_b for every block b, all from one graph of the gradient.

    Args:
        mode: ``"exact"`` takes one product a block; ``"probes"`` averages S H S v over random block signs S, whose mean
            is the block diagonal (Hutchinson 1989, by blocks), one product a probe.
        probes: how many sign vectors are averaged.
        block_of: names the block of a parameter.

    Raises:
        InputError: ``probes`` is below one.
    """

    mode: Literal["exact", "probes"] = "exact"
    probes: int = 1
    block_of: Callable[[str], str] = layer_of
    second_order: ClassVar[bool] = True
    keeps_graph: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise InputError(f"a block diagonal needs at least 1 probe, not {self.probes}", field="probes")

    def __call__(self, point: LossPoint, vector: Params) -> Params:
        def product(part: LossPart) -> Params:
            leaves, grads = gradient_graph(part, point.params, vector)
            return (
                self._by_block(leaves, grads, vector)
                if self.mode == "exact"
                else self._by_probes(point, leaves, grads, vector)
            )

        return weighted_sum(point, product)

    def _by_block(self, leaves: Params, grads: Params, vector: Params) -> Params:
        result = {name: torch.zeros_like(value) for name, value in leaves.items()}
        for block in dict.fromkeys(self.block_of(name) for name in vector):
            own = {name: value for name, value in grads.items() if self.block_of(name) == block}
            members = {name: value for name, value in leaves.items() if self.block_of(name) == block}
            result.update(pull_back(own, vector, members, keep=True))
        return result

    def _by_probes(self, point: LossPoint, leaves: Params, grads: Params, vector: Params) -> Params:
        names = list(dict.fromkeys(self.block_of(name) for name in leaves))
        n_tasks = len(next(iter(leaves.values())))
        blocks = LossPoint({name: torch.zeros(n_tasks, 1) for name in names}, (), point.streams)
        total: Params | None = None
        for drawn in probe_signs(blocks, names, self.probes):
            signs = {
                name: drawn[self.block_of(name)].to(value).view(-1, *[1] * (value.ndim - 1))
                for name, value in leaves.items()
            }
            signed = {name: signs[name] * value for name, value in vector.items()}
            found = tree_map(torch.mul, pull_back(grads, signed, leaves, keep=True), signs)
            total = found if total is None else add(total, found)
        assert total is not None
        return scale(total, 1 / self.probes)


@dataclass(frozen=True)
class Diagonal:
    """h ∘ v, element by element; parameters that the vector does not name get zero.

    Args:
        estimate: ``"fisher"`` takes h = mean over examples of the squared gradient of the example's loss, for which
            every example runs as a task of its own, at first order. ``"hutchinson"`` takes h = mean of z ∘ Hz over
            random signs z (Bekas et al. 2007), whose expectation is the diagonal of H.
        probes: how many sign vectors are averaged.

    Raises:
        InputError: ``probes`` is below one; or the Fisher diagonal of a model whose examples are coupled.
    """

    estimate: Literal["fisher", "hutchinson"] = "fisher"
    probes: int = 1

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise InputError(f"a diagonal needs at least 1 probe, not {self.probes}", field="probes")

    @property
    def second_order(self) -> bool:
        return self.estimate == "hutchinson"

    @property
    def keeps_graph(self) -> bool:
        return self.second_order

    def __call__(self, point: LossPoint, vector: Params) -> Params:
        names = tuple(vector)

        def diagonal(part: LossPart) -> Params:
            return _fisher(part, point.params, names) if self.estimate == "fisher" else self._probed(part, point, names)

        h = weighted_sum(point, diagonal)
        return {
            name: h[name] * vector[name] if name in vector else torch.zeros_like(value)
            for name, value in point.params.items()
        }

    def _probed(self, part: LossPart, point: LossPoint, names: tuple[str, ...]) -> Params:
        leaves, grads = gradient_graph(part, point.params, names)
        own = {name: leaves[name] for name in names}
        total: Params | None = None
        for signs in probe_signs(point, names, self.probes):
            found = tree_map(torch.mul, pull_back(grads, signs, own, keep=True), signs)
            total = found if total is None else add(total, found)
        assert total is not None
        return scale(total, 1 / self.probes)


def _fisher(part: LossPart, params: Params, names: tuple[str, ...]) -> Params:
    """Mean over the examples of each task of the squared gradients of their losses."""
    if part.example_losses is None:
        raise InputError(
            "the Fisher diagonal needs one gradient an example, which a model with batch statistics does not have; "
            "use the Hutchinson estimate"
        )
    size = part.n_examples
    leaves = {
        name: value.detach().repeat_interleave(size, 0).requires_grad_(name in names) for name, value in params.items()
    }
    with torch.enable_grad():
        losses = part.example_losses(leaves)
        pieces = torch.autograd.grad(losses.sum(), [leaves[name] for name in names], materialize_grads=True)
    return {name: piece.unflatten(0, (-1, size)).square().mean(1) for name, piece in zip(names, pieces, strict=True)}


# torch has one forward-mode level for all threads.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class GaussNewton:
    """Jᵀ L J v (Schraudolph 2002): J = ∂outputs/∂parameters, L = ∂²loss/∂outputs², diag(p) − ppᵀ for cross-entropy.

    J v takes a forward pass without a graph, Jᵀ an ordinary backward pass, so the memory is that of a first-order
    gradient; where the loss is convex in the outputs the matrix is positive semi-definite.

    Args:
        product: J v by ``"forward_mode"`` differentiation, exact, one thread at a time; or by a central
            ``"difference"`` of outputs, which needs no derivative that a fused attention kernel lacks.
        eps: relative step of the difference, as in `FiniteDifference`.

    Raises:
        InputError: the model has no loss as a function of its outputs.
    """

    product: Literal["forward_mode", "difference"] = "forward_mode"
    eps: float | None = None

    @property
    def second_order(self) -> bool:
        return self.product == "forward_mode"

    def __call__(self, point: LossPoint, vector: Params) -> Params:
        def product(part: LossPart) -> Params:
            if part.outputs is None or part.output_losses is None:
                raise InputError(
                    "Gauss-Newton curvature needs the loss as a function of the outputs: give the model a method "
                    "output_losses(outputs, batch), and predict a third argument, dropout"
                )
            along = self._along(part, point.params, vector)
            leaves = {name: value.detach().requires_grad_(True) for name, value in point.params.items()}
            with torch.enable_grad():
                outputs = part.outputs(leaves)
            return pull_back({"outputs": outputs}, {"outputs": _output_product(part, outputs, along)}, leaves)

        return weighted_sum(point, product)

    def _along(self, part: LossPart, params: Params, vector: Params) -> torch.Tensor:
        """J v [T, B, ...]."""
        assert part.outputs is not None
        detached = {name: value.detach() for name, value in params.items()}
        with torch.no_grad():
            if self.product == "difference":
                step, inverse = FiniteDifference(self.eps).steps(params, vector)
                upper = part.outputs(shifted(detached, vector, step))
                return per_task(0.5 * inverse, upper - part.outputs(shifted(detached, vector, -step)))
            with _ONE_AT_A_TIME, warnings.catch_warnings(), forward_ad.dual_level():
                # torch scripts its own rules at the first use and warns that scripting is deprecated.
                warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
                # Parameters that all tasks share are one tensor seen T times, which cannot hold T tangents.
                duals = {
                    name: forward_ad.make_dual(value.contiguous(), vector[name].to(value)) if name in vector else value
                    for name, value in detached.items()
                }
                primal, tangent = forward_ad.unpack_dual(part.outputs(duals))
                return torch.zeros_like(primal) if tangent is None else tangent.clone()


def _output_product(part: LossPart, outputs: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """L times ``along``, differentiating the loss twice in the (small) outputs."""
    assert part.output_losses is not None
    leaf = outputs.detach().requires_grad_(True)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(part.output_losses(leaf).sum(), leaf, create_graph=True)
    return pull_back({"slope": slope}, {"slope": along}, {"outputs": leaf})["outputs"]
