"""What every task source promises, as checks that a source of your own can run through.

    check_task_source(my_source)        raises AssertionError naming the broken promise

Give a source with few training tasks (about 10), so that examples and tasks come up again often enough to judge.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from metascale.core.canonical import canonical_json
from metascale.core.types import SPLITS, Batch, Episode, Split, TaskSource
from metascale.testing.model_contract import generators_untouched, promise

Variant = Callable[..., TaskSource]
_MAX_Z = 4.5


def check_task_source(source: TaskSource, *, n_visits: int = 120, variant: Variant | None = None) -> None:
    """Run every check on ``source``.

    Args:
        n_visits: how many training visits the statistical checks look at.
        variant: ``variant(n_train_tasks=..., seed=...)`` gives the same source with another pool size or training
            seed. A frozen dataclass with these two fields needs none. Without it, that evaluation is the same for every
            pool size and seed, and that pools are nested, is not checked.
    """
    if variant is None and dataclasses.is_dataclass(source):
        names = {field.name for field in dataclasses.fields(source)}
        if {"n_train_tasks", "seed"} <= names:
            variant = lambda **changes: dataclasses.replace(source, **changes)
    check_shapes(source)
    check_purity(source)
    check_global_generators(source)
    check_visits(source)
    check_examples(source, n_visits)
    check_labels(source, n_visits)
    check_description(source)
    if variant is not None:
        check_variants(source, variant)


def _expect(condition: bool, message: str) -> None:
    promise(condition, f"task source: {message}")


def _indices(source: TaskSource, split: Split, n: int = 6) -> list[int]:
    """The first ``n`` indices, or all of a smaller evaluation split."""
    n_tasks = source.n_tasks(split)
    return list(range(n if split == "train" or n_tasks is None else min(n, n_tasks)))


def example_keys(batch: Batch) -> list[list[bytes]]:
    """[T][B] the bytes of every example: all its inputs, text without its padding, and real-valued targets."""
    values = {name: batch.inputs[name].numpy() for name in sorted(batch.inputs) if name != "attention_mask"}
    if batch.targets.is_floating_point():
        values["targets"] = batch.targets.numpy()
    mask = batch.inputs["attention_mask"].numpy().astype(bool) if "attention_mask" in batch.inputs else None

    def key(task: int, example: int) -> bytes:
        parts = []
        for value in values.values():
            one = value[task, example]
            if mask is not None and value.shape == mask.shape:
                one = one[mask[task, example]]
            parts.append(one.tobytes())
        return b"|".join(parts)

    return [[key(task, example) for example in range(batch.n_examples)] for task in range(batch.n_tasks)]


def _fingerprint(episode: Episode) -> list[tuple[Any, ...]]:
    """One comparable value a task; padding does not count, since it depends on the other tasks of a call."""
    support, query = example_keys(episode.support), example_keys(episode.query)
    return [
        (
            episode.task_ids[task],
            support[task],
            episode.support.targets[task].tolist(),
            query[task],
            episode.query.targets[task].tolist(),
        )
        for task in range(episode.n_tasks)
    ]


def check_shapes(source: TaskSource) -> None:
    """Leading axes [T, B], finite float32 or integer inputs, the same labels in support and query."""
    for split in SPLITS:
        indices = _indices(source, split)
        episode = source.episodes(split, indices)
        _expect(len(episode.task_ids) == len(indices), f"{split}: one task id per index")
        for name, batch in (("support", episode.support), ("query", episode.query)):
            where = f"{split} {name}"
            _expect(batch.n_tasks == len(indices), f"{where}: targets [T, ...] with one row per index")
            for key, value in batch.inputs.items():
                _expect(value.shape[:2] == batch.targets.shape[:2], f"{where}: inputs '{key}' start with [T, B]")
                _expect(value.dtype in (torch.float32, torch.int64), f"{where}: inputs '{key}' are float32 or int64")
                _expect(bool(torch.isfinite(value).all()), f"{where}: inputs '{key}' are finite")
            real = batch.targets.is_floating_point()
            _expect(real or batch.targets.dtype == torch.int64, f"{where}: class targets are int64")
            _expect(bool(torch.isfinite(batch.targets).all()), f"{where}: targets are finite")
        if not episode.support.targets.is_floating_point():
            _check_label_sets(split, episode)


def _check_label_sets(split: Split, episode: Episode) -> None:
    for task in range(episode.n_tasks):
        labels = sorted(set(episode.support.targets[task].tolist()))
        _expect(labels == list(range(len(labels))), f"{split}: support labels are 0 .. n_way - 1, not {labels}")
        queried = set(episode.query.targets[task].tolist())
        _expect(queried <= set(labels), f"{split}: every query label occurs in the support set")


def check_purity(source: TaskSource) -> None:
    """The same indices give the same bytes: again, in any order, in chunks, and twice in one call."""
    for split in SPLITS:
        indices = _indices(source, split)
        whole = _fingerprint(source.episodes(split, indices))
        _expect(_fingerprint(source.episodes(split, indices)) == whole, f"{split}: a second call gives other bytes")
        backwards = _fingerprint(source.episodes(split, indices[::-1]))
        _expect(backwards[::-1] == whole, f"{split}: an episode depends on the order of the indices")
        chunks = [one for index in indices for one in _fingerprint(source.episodes(split, [index]))]
        _expect(chunks == whole, f"{split}: single episodes differ from the same episodes in one call")
        twice = _fingerprint(source.episodes(split, [indices[-1], indices[-1]]))
        _expect(twice[0] == twice[1] == whole[-1], f"{split}: an index twice in one call gives two episodes")


def check_global_generators(source: TaskSource) -> None:
    """Episodes neither read nor move the global generators of random, NumPy and torch."""
    saved = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        found = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            with generators_untouched():
                found.append([_fingerprint(source.episodes(split, _indices(source, split, 3))) for split in SPLITS])
        _expect(found[0] == found[1], "episodes depend on a global random generator")
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.set_rng_state(saved[2])


def check_visits(source: TaskSource) -> None:
    """A pass over the training pool sees each task once; the next in another order, with fresh examples."""
    n_tasks = source.n_tasks("train")
    if n_tasks is not None:
        episodes = [source.episodes("train", [visit]) for visit in range(2 * n_tasks)]
        ids = [episode.task_ids[0] for episode in episodes]
        first, second = ids[:n_tasks], ids[n_tasks:]
        _expect(len(set(first)) == n_tasks, f"the first {n_tasks} training visits see {len(set(first))} tasks")
        _expect(set(first) == set(second), "two passes over the training pool see different tasks")
        _expect(n_tasks < 8 or first != second, "every pass over the training pool has the same order")
        supports = {task: example_keys(episodes[visit].support)[0] for visit, task in enumerate(first)}
        for visit, task in enumerate(second, start=n_tasks):
            again = example_keys(episodes[visit].support)[0]
            _expect(sorted(again) != sorted(supports[task]), f"task {task} has the same support set at both visits")
    for split in SPLITS[1:]:
        indices = _indices(source, split, 1000)
        ids = list(source.episodes(split, indices).task_ids)
        _expect(len(set(ids)) == len(ids), f"{split}: two indices have the same task id")


def check_examples(source: TaskSource, n_visits: int) -> None:
    """Support and query share no example, no set holds one twice, and splits share none."""
    seen: dict[Split, set[bytes]] = {}
    for split in SPLITS:
        seen[split] = set()
        for index in _indices(source, split, n_visits):
            episode = source.episodes(split, [index])
            keys = example_keys(episode.support)[0] + example_keys(episode.query)[0]
            _expect(len(set(keys)) == len(keys), f"{split} {index}: an example occurs twice in support and query")
            seen[split].update(keys)
    pairs: list[tuple[Split, Split]] = [("train", "test"), ("validation", "test")]
    if source.describe().get("classes") != "shared":
        pairs.append(("train", "validation"))
    for first, second in pairs:
        n_shared = len(seen[first] & seen[second])
        _expect(n_shared == 0, f"{n_shared} examples occur both in {first} and in {second} episodes")


def check_labels(source: TaskSource, n_visits: int) -> None:
    """What an example was called before does not predict what it is called now.

    Each training visit is predicted from the labels that the same examples had at earlier visits. With a fresh random
    label order every visit's hit rate has mean 1 / n_way given the past, so the sum over visits is a martingale.
    """
    earlier: dict[bytes, int] = {}
    hit_rates = []
    n_way = 0
    for visit in range(n_visits):
        episode = source.episodes("train", [visit])
        if episode.support.targets.is_floating_point():
            return
        keys = example_keys(episode.support)[0] + example_keys(episode.query)[0]
        labels = episode.support.targets[0].tolist() + episode.query.targets[0].tolist()
        n_way = max(labels) + 1
        hits = [earlier[key] == label for key, label in zip(keys, labels, strict=True) if key in earlier]
        if hits:
            hit_rates.append(sum(hits) / len(hits))
        earlier.update(zip(keys, labels, strict=True))
    _expect(
        len(hit_rates) >= 30,
        f"only {len(hit_rates)} of {n_visits} visits hold an example seen before, too few to judge label leaks; "
        "give the check a source with fewer training tasks, or more visits",
    )
    chance = 1 / n_way
    # The largest variance a visit's hit rate can have: all its examples known from one class.
    z = (float(np.mean(hit_rates)) - chance) * (len(hit_rates) / (chance * (1 - chance))) ** 0.5
    _expect(
        abs(z) < _MAX_Z,
        f"labels leak: the label of an earlier visit predicts {np.mean(hit_rates):.0%} of labels, chance is "
        f"{chance:.0%} ({z:.1f} standard errors off)",
    )


def check_description(source: TaskSource) -> None:
    """``describe()`` is JSON, the same every time, and holds every task of every pool; classes are disjoint."""
    described = source.describe()
    _expect(canonical_json(described) == canonical_json(source.describe()), "describe() changes between calls")
    described = json.loads(canonical_json(described))
    for split in SPLITS:
        pool, n_tasks = described["pools"][split], source.n_tasks(split)
        _expect((pool is None) == (n_tasks is None), f"describe() holds the {split} pool unless it is endless")
        _expect(pool is None or len(pool) == n_tasks, f"describe() holds every task of the {split} pool")
    train = described["pools"]["train"]
    if train is not None:
        distinct = {canonical_json(sorted(task) if isinstance(task[0], str) else task) for task in train}
        _expect(len(distinct) == len(train), "two training tasks are the same set of classes")
    if "split" in described and described.get("classes") != "shared":
        _check_class_split(described)


def _check_class_split(described: dict[str, Any]) -> None:
    split = {name: set(classes) for name, classes in described["split"].items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sorted(split[first] & split[second])
        _expect(not shared, f"the classes {shared[:5]} are in the {first} and the {second} split")
    for name in SPLITS:
        used = {item for task in described["pools"][name] or [] for item in task}
        _expect(used <= split[name], f"{name} tasks use classes outside the {name} split")


def check_variants(source: TaskSource, variant: Variant) -> None:
    """Evaluation is the same for every pool size and training seed; a smaller pool is part of a larger one."""
    n_tasks, n_small = source.n_tasks("train"), max(1, (source.n_tasks("train") or 8) // 2)
    small, reseeded = variant(n_train_tasks=n_small), variant(seed=getattr(source, "seed", 0) + 1)
    for split in SPLITS[1:]:
        indices = _indices(source, split)
        expected = _fingerprint(source.episodes(split, indices))
        for other, what in ((small, "number of training tasks"), (reseeded, "training seed")):
            _expect(_fingerprint(other.episodes(split, indices)) == expected, f"{split} episodes depend on the {what}")
    _expect(
        _fingerprint(reseeded.episodes("train", [0, 1])) != _fingerprint(source.episodes("train", [0, 1])),
        "another training seed gives the same training episodes",
    )
    if n_tasks is not None:
        ids = _task_ids(source, range(n_tasks))
        _expect(
            _task_ids(small, range(n_small)) <= ids, f"the pool of {n_small} tasks is not part of that of {n_tasks}"
        )


def _task_ids(source: TaskSource, visits: Sequence[int]) -> set[str]:
    return set(source.episodes("train", visits).task_ids)
