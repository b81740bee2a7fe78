"""Out of memory: halve the micro-batch and go on with the same numbers; the run remembers the size that fits."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from metascale.core.errors import InputError, MetascaleError
from metascale.core.files import read_json
from metascale.core.run import Run
from metascale.core.types import Episode

Result = TypeVar("Result")
Shape = tuple[int, ...]
MEMORY_FILE = "memory.json"
_log = logging.getLogger("metascale.parallel")
_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "std::bad_alloc")


class DoesNotFit(MetascaleError, MemoryError):
    """Not even the most frugal plan of a step fits into memory, or into the memory budget."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on a GPU, in torch's CPU allocator, or in Python."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return not isinstance(error, DoesNotFit)
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_MESSAGES)


@dataclass
class MicroBatches:
    """The micro-batch that fits, for every shape of episode that ran out of memory in this run.

    The numbers are the same to rounding, whatever the size. A resumed run reads the sizes and does not fail again.

    Args:
        run: where each halving is recorded as a measurement, and the sizes in ``memory.json``; ``None``: nowhere.
        sizes: examples a forward pass by shape (support, query, and the further axes of the inputs).
    """

    run: Run | None = None
    sizes: dict[Shape, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = None if self.run is None else self.run.folder / MEMORY_FILE
        if path is not None and path.is_file():
            rows = read_json(path)["micro_batches"]
            self.sizes = {tuple(row["shape"]): int(row["micro_batch"]) for row in rows}

    def attempt(
        self, call: Callable[[int | None], Result], micro_batch: int | None, episode: Episode, step: int
    ) -> Result:
        """``call(micro_batch)``, again with half the micro-batch whenever memory runs out.

        Args:
            call: runs with micro-batches of the given size (``None``: whole batches) and has no effect if it fails.
            micro_batch: the largest that is tried.
            episode: its shape is what sizes are remembered by.
            step: for the record.

        Raises:
            DoesNotFit: memory ran out with single examples, or with a model that does not allow micro-batches.
        """
        shape = shape_of(episode)
        largest = max(episode.support.n_examples, episode.query.n_examples)
        size = micro_batch
        remembered = self.remembered(shape)
        if remembered is not None:
            size = min(remembered, size or largest)
        reason = ""
        while True:
            try:
                return call(size)
            except InputError as error:
                if not reason:
                    raise
                raise DoesNotFit(f"out of memory at step {step} ({reason}), and no micro-batches: {error}") from error
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            size = self._halved(size or largest, shape, step, reason)

    def remembered(self, shape: Shape) -> int | None:
        """The smallest size found for this shape or for one that is no larger in any axis."""
        fits = [size for known, size in self.sizes.items() if _no_larger(known, shape)]
        return min(fits) if fits else None

    def _halved(self, size: int, shape: Shape, step: int, reason: str) -> int:
        # Outside the except block: the frames of the failed pass, and the tensors they hold, are gone.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise DoesNotFit(
                f"out of memory at step {step} with micro-batches of one example (support, query and further axes "
                f"{list(shape)}); use fewer tasks at once, shorter inputs, checkpoint_blocks, or a smaller model: "
                + reason
            )
        half = size // 2
        self.sizes[shape] = half
        _log.warning("out of memory at step %d: micro-batch %d -> %d examples (%s)", step, size, half, reason)
        if self.run is not None:
            self.run.measure({"step": step, "event": "out_of_memory", "shape": list(shape), "micro_batch": half})
            rows = [{"shape": list(known), "micro_batch": found} for known, found in sorted(self.sizes.items())]
            self.run.write(MEMORY_FILE, {"micro_batches": rows})
        return half


def shape_of(episode: Episode) -> Shape:
    first = next(iter(episode.support.inputs.values()))
    return (episode.support.n_examples, episode.query.n_examples, *first.shape[2:])


def _no_larger(known: Shape, shape: Shape) -> bool:
    return len(known) == len(shape) and all(a <= b for a, b in zip(known, shape, strict=True))
