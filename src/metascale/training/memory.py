"""Memory of one call: the bytes of live tensors and what they hold at the peak; on a GPU the allocator's peak as well.

Bytes of live storages are the same in every run of the same call, so two programs can be compared without noise. Work
space inside a single kernel is not seen.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metascale.core.errors import InputError

KINDS = ("weights", "parameters", "activations", "gradients", "optimizer_state", "other")
"""What bytes hold. Parameters: trainable tensors (adapters, heads), of the meta-learner and of every adapted task.
Activations: what a forward pass makes, and its recomputation. Gradients: what a backward pass makes, the graph of a
second-order one included."""

MIB = 2**20
RECOMPUTE = "metascale.recompute"
"""The `torch.profiler.record_function` name under which models run a checkpointed block again."""
Static: TypeAlias = Mapping[str, Iterable[torch.Tensor]]
_COUNTING = threading.local()
_RECORD = (
    torch.ops.profiler._record_function_enter_new.default,
    torch.ops.profiler._record_function_exit._RecordFunction,
)


def counting() -> bool:
    """Whether this thread is inside a `LiveBytes`, which would not see the work of other threads."""
    return getattr(_COUNTING, "on", False)


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Memory at the peak of one call.

    Args:
        by_kind: live bytes at the peak of each of `KINDS`.
        allocated_bytes: the allocator's own peak (``max_memory_allocated``) on a GPU, rounding and work space included;
            ``None`` on a CPU.
    """

    by_kind: Mapping[str, int]
    allocated_bytes: int | None = None

    @property
    def live_bytes(self) -> int:
        return sum(self.by_kind.values())

    @property
    def peak_bytes(self) -> int:
        """The allocator's peak where it is known, otherwise that of live tensors."""
        return self.live_bytes if self.allocated_bytes is None else self.allocated_bytes

    @property
    def peak_without_weights_bytes(self) -> int:
        """Without the frozen weights, which are the same for every method."""
        return self.peak_bytes - self.by_kind["weights"]

    def row(self) -> dict[str, int]:
        """JSON: the totals, and ``<kind>_bytes`` of each kind."""
        totals = {"peak_bytes": self.peak_bytes, "peak_without_weights_bytes": self.peak_without_weights_bytes}
        return {**totals, **{f"{kind}_bytes": int(self.by_kind[kind]) for kind in KINDS}}

    def table(self) -> str:
        """One line a kind, in MiB, and the totals."""
        lines = [(kind.replace("_", " "), self.by_kind[kind]) for kind in KINDS]
        lines += [("live tensors at the peak", self.live_bytes)]
        if self.allocated_bytes is not None:
            lines += [("allocator's peak", self.allocated_bytes)]
        lines += [("peak without weights", self.peak_without_weights_bytes)]
        return "\n".join(f"{name:26} {n_bytes / MIB:10.2f} MiB" for name, n_bytes in lines)


@dataclass(slots=True)
class _Life:
    """One storage made inside the call, with the events (numbered) that made and freed it."""

    n_bytes: int
    kind: str
    born: int
    died: int | None = None


class LiveBytes(TorchDispatchMode):
    """Counts the live tensor storages of what runs inside, each once however many views it has.

    A storage counts from the operation that makes it until it is freed, also when only autograd holds it. Tensors that
    existed before are the static part and count throughout, whether named in ``static`` (the first name holds) or first
    seen as an input.
    Work handed to other threads is not seen, except by autograd: run it in this thread.

    Args:
        static: tensors that exist already, by what they hold (see `KINDS`).
        default: what a tensor made outside a backward pass and outside any ``region`` holds.
        without_values: what runs inside lives on torch's meta device and computes nothing; otherwise tensors on that
            device take no memory.
    """

    def __init__(self, static: Static | None = None, default: str = "activations", without_values: bool = False):
        super().__init__()
        self._default = _checked(default)
        self._without_values = without_values
        self._regions: list[str] = []
        self._records: list[bool] = []
        self._static: dict[int, tuple[Any, str]] = {}
        self._alive: dict[int, tuple[weakref.ref[Any], _Life]] = {}
        self._lives: list[_Life] = []
        self._clock = self._live = self._peak = self._peak_at = 0
        for kind, tensors in (static or {}).items():
            _checked(kind)
            for storage in self._storages(tensors):
                self._static.setdefault(storage._cdata, (storage, kind))

    def __enter__(self) -> LiveBytes:
        if counting():
            raise InputError("live bytes are already being counted in this thread; measure one call at a time")
        _COUNTING.on = True
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        _COUNTING.on = False
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RECORD:
            return self._recorded(func, args, kwargs)
        for storage in self._storages((args, kwargs)):
            if storage._cdata not in self._alive:
                self._static.setdefault(storage._cdata, (storage, "other"))
        result = func(*args, **kwargs)
        for storage in self._storages(result):
            if storage._cdata not in self._static:
                self._note(storage)
        if self._live > self._peak:
            self._peak, self._peak_at = self._live, self._clock
        return result

    def _storages(self, values: Any) -> Iterator[Any]:
        for value in _tensors(values):
            if value.layout is torch.strided and (self._without_values or value.device.type != "meta"):
                yield value.untyped_storage()

    def _recorded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Whether the innermost recorded function is a block's recomputation."""
        if func is _RECORD[0]:
            self._records.append(args[0] == RECOMPUTE)
        else:
            self._records.pop()
        return func(*args, **kwargs)

    def _note(self, storage: Any) -> None:
        key, n_bytes = storage._cdata, storage.nbytes()
        known = self._alive.get(key)
        if known is not None and known[1].n_bytes == n_bytes:
            return
        self._clock += 1
        kind = known[1].kind if known else self._kind()
        if known is not None:
            self._end(known[1])
        life = _Life(n_bytes, kind, self._clock)
        reference = known[0] if known else weakref.ref(storage, lambda _: self._freed(key))
        self._alive[key] = (reference, life)
        self._lives.append(life)
        self._live += n_bytes

    def _freed(self, key: int) -> None:
        self._clock += 1
        self._end(self._alive.pop(key)[1])

    def _end(self, life: _Life) -> None:
        life.died = self._clock
        self._live -= life.n_bytes

    def _kind(self) -> str:
        if _in_backward():
            return "activations" if any(self._records) or _watching_saved() else "gradients"
        return self._regions[-1] if self._regions else self._default

    @contextmanager
    def region(self, kind: str) -> Iterator[None]:
        """Tensors made inside hold ``kind``, unless a backward pass makes them."""
        self._regions.append(_checked(kind))
        try:
            yield
        finally:
            self._regions.pop()

    def label(self, kind: str, tensors: object) -> None:
        """Tensors (in any nesting) hold ``kind`` for their whole life, whatever made them."""
        _checked(kind)
        for storage in self._storages(tensors):
            if storage._cdata in self._alive:
                self._alive[storage._cdata][1].kind = kind
            elif storage._cdata in self._static and self._static[storage._cdata][1] == "other":
                self._static[storage._cdata] = (storage, kind)

    def report(self, allocated_bytes: int | None = None) -> MemoryReport:
        by_kind = dict.fromkeys(KINDS, 0)
        for storage, kind in self._static.values():
            by_kind[kind] += storage.nbytes()
        for life in self._lives:
            if life.born <= self._peak_at and (life.died is None or life.died > self._peak_at):
                by_kind[life.kind] += life.n_bytes
        return MemoryReport(by_kind, allocated_bytes)


class WatchedModel:
    """A model whose methods named in ``forward`` make activations; all other attributes are the model's."""

    def __init__(self, model: object, meter: LiveBytes, forward: Collection[str]):
        self._model = model
        self._meter = meter
        self._forward = forward

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if name not in self._forward:
            return value

        def run(*args: Any, **kwargs: Any) -> Any:
            with self._meter.region("activations"):
                return value(*args, **kwargs)

        return run


def measure_memory(
    call: Callable[[LiveBytes], object], static: Static | None = None, device: str = "cpu", default: str = "activations"
) -> MemoryReport:
    """The memory of ``call(meter)``; with the meter the call names regions and tensors.

    On a GPU the allocator's peak is taken in the same call: it includes whatever else this process holds there. On the
    device ``"meta"`` nothing is computed and only sizes are counted.
    """
    on_gpu = torch.device(device).type == "cuda"
    meter = LiveBytes(static, default, without_values=torch.device(device).type == "meta")
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    with meter:
        result = call(meter)
    if on_gpu:
        torch.cuda.synchronize(device)
    report = meter.report(torch.cuda.max_memory_allocated(device) if on_gpu else None)
    del result  # it was alive when the call ended
    return report


def _checked(kind: str) -> str:
    if kind not in KINDS:
        raise InputError(f"memory holds one of {', '.join(KINDS)}, not '{kind}'")
    return kind


def _tensors(values: object) -> Iterator[torch.Tensor]:
    """The tensors in any nesting of containers."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, Iterable) and not isinstance(values, str):
        for value in values:
            yield from _tensors(value)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _watching_saved() -> bool:
    """torch's own checkpointing is repeating a forward pass: it watches what is saved, as no other backward does."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
