"""A recipe is a ready-made study; the registry finds one by its name, an installed package or a file."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic

from metascale.core.canonical import plain
from metascale.core.columns import TEST_LOSS, TUNING
from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.core.suggest import suggest
from metascale.study.content import CONTENT, PLACES
from metascale.study.design import TUNE_KEY as TUNE
from metascale.study.design import Study, merge
from metascale.study.roles import Reading, Roles, assign
from metascale.study.search.search import PRUNE_KEY, Search, search_of, searched_points
from metascale.workflow.config import (
    LATER_KEYS,
    LEARNER_KEYS,
    Config,
    FewShotConfig,
    absolute_places,
    plural_keys,
    validate,
)
from metascale.workflow.foreign import hint

if TYPE_CHECKING:
    from metascale.study.store.folder import StudyView
    from metascale.study.store.table import ResultsTable
    from metascale.workflow.fewshot import Parts

SHIPPED: Mapping[str, str] = {
    "digits": "metascale.recipes.digits",
    "sinusoid": "metascale.recipes.sinusoid",
    "synthetic": "metascale.recipes.synthetic",
    "omniglot": "metascale.recipes.omniglot",
    "banking77": "metascale.recipes.banking77",
    "clinc150": "metascale.recipes.clinc150",
    "csv": "metascale.recipes.csv",
    "melora": "metascale.recipes.melora",
    "noisy_labels": "metascale.recipes.noisy_labels",
    "annotators": "metascale.recipes.annotators",
    "data_pruning": "metascale.recipes.data_pruning",
    "auxiliary_tasks": "metascale.recipes.auxiliary_tasks",
    "hypergradient_bias": "metascale.recipes.hypergradient_bias",
    "shapes": "metascale.recipes.shapes",
    "model_size": "metascale.recipes.model_size",
}
"""Modules of the recipes that come with metascale; each defines a ``RECIPE``."""

ENTRY_POINTS = "metascale.recipes"
"""Entry-point group by which an installed package adds recipes: ``NAME = "package.module"``."""

FEW_SHOT = "metascale.workflow.fewshot:trial"
NOT_CONFIGURED = ("recipe", "trial", "seed", TUNE, PRUNE_KEY, CONTENT, PLACES)
"""Keys of a trial's configuration that are the study's, not the recipe's."""

CostTable = tuple[str, list[str], list[list[str]]]
"""A title, headings and rows."""


def is_search(config: Mapping[str, object]) -> bool:
    """Whether a trial belongs to a search: it ends with its validation loss and is never tested."""
    return config.get("kind") == TUNING


OF_EVERY_SEED = ("fine_tuning",)
"""Baselines that run with every seed of the learner: from one random start they may be lucky, and the learner not."""


@dataclass(frozen=True)
class Profile:
    """A variant of a recipe; what is ``None`` or empty is as in the recipe.

    ``scale`` names what the law runs along: of two, the law is L(N, D).
    """

    about: str
    values: Mapping[str, object] = field(default_factory=dict)
    axes: Mapping[str, Sequence[object]] | None = None
    seeds: tuple[int, ...] | None = None
    baselines: tuple[Mapping[str, object], ...] | None = None
    question: str = ""
    scale: tuple[str, ...] = ()


@dataclass(frozen=True)
class Follows:
    """Defaults that go with some values of a key, in the place of the recipe's.

    Args:
        key: of the configuration.
        when: whether a value of that key brings them; not the one that the recipe itself has.
        values: the defaults.
        about: whose settings they are, for a line on the terminal.
    """

    key: str
    when: Callable[[Any], bool]
    values: Mapping[str, object]
    about: str


@dataclass(frozen=True)
class Recipe(Generic[Config]):
    """One ready-made study: the ``RECIPE`` of a file, beside these functions of the same file.

    - ``parts(config, seed, device)``: the task source and the model of a few-shot trial (`Parts`); or, for any other
      study, ``trial(config, run, device)``, which runs one trial and returns its row of results;
    - ``costs(study)``, if it has one: the title, headings and rows that a dry run prints;
    - ``check(config)``, if it has one: refuses (`InputError`) what a trial of this configuration would only find when
      it runs; by default the ``parts`` of a few-shot trial are built on the CPU, without a language model;
    - ``conclude(view, table)``, if it has one: writes what it concludes beyond the law, and returns the paths.

    Args:
        name: what the command line calls it.
        title: one line, for lists.
        question: what the study answers, for its report.
        config: the configuration class; it declares only keys that its base class does not have.
        defaults: values of the configuration's keys, over the class's own.
        axes: what varies, by key; the first one with at least two numbers is the x axis of the law.
        seeds: training seeds.
        baselines: methods that run once beside the axes, with overrides.
        profiles: variants by name.
        follows: defaults that go with other values of a key, whether a profile or the user gives them.
        data_sets: what has to be in the data folder: names, or a function of a trial's configuration.
        packages: top-level modules that its trials import.
        preload: modules that its trials import, which a process loads before it starts the first of them.
        scale_columns: columns of the results that the law runs along instead of an axis (a measured parameter count),
            by axis; axes of the same column make one law together.
        loss: the column of the results that the law is fitted to.
        search: what ``tune`` tunes unless it names a space of its own: keys of `metascale.study.search.search.Search`.
        tuned: whether ``tune`` is on unless it is set to false.
        source: set on loading: by what a stored study finds the recipe again (its name, or a file's path).
        module: set on loading.
    """

    name: str
    title: str
    question: str
    config: type[Config]
    axes: Mapping[str, Sequence[object]]
    defaults: Mapping[str, object] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    baselines: tuple[Mapping[str, object], ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    follows: tuple[Follows, ...] = ()
    data_sets: tuple[str, ...] | Callable[[Config], tuple[str, ...]] = ()
    packages: tuple[str, ...] = ("torch", "safetensors")
    preload: tuple[str, ...] = ()
    scale_columns: Mapping[str, str] = field(default_factory=dict)
    loss: str = TEST_LOSS
    search: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False
    source: str = ""
    module: ModuleType | None = None

    def study(
        self,
        values: Mapping[str, object] | None = None,
        profile: str | None = None,
        seeds: Sequence[int] | None = None,
        baselines: bool = True,
        reading: Reading | None = None,
    ) -> Study:
        """The study with ``values`` over the profile's over the defaults; a list for a single-valued key is an axis.

        Every trial is validated here, before anything runs or is written.

        Args:
            reading: the roles of the axes; a recipe has its own loss.

        Raises:
            InputError: an unknown profile or key, or a value that is not allowed.
        """
        for key in ("seed", "recipe", "trial"):
            if key in (values or {}):
                what = hint(key, ()) or "the study itself sets it"
                raise InputError(f"recipe '{self.name}': there is no key '{key}'; {what}", field=key)
        chosen = self.profile(profile)
        fixed = {key: value for key, value in chosen.values.items() if key not in (chosen.axes or {})}
        base = {**fixed, **(values or {})}
        tune = self._tune(base.pop(TUNE, self.tuned), chosen.values.get(TUNE))
        axes = absolute_places(self._take_axes(base, self.axes if chosen.axes is None else chosen.axes))
        base = {**self._brought_by_axes(axes), **base}
        if "n_tasks" in axes:
            base["n_tasks"] = None  # of the baselines, which have no training tasks
        beside = (self.baselines if chosen.baselines is None else chosen.baselines) if baselines else ()
        seeds = list(seeds or chosen.seeds or self.seeds)
        reading = reading or Reading()
        roles = assign(
            axes,
            scale=reading.scale or chosen.scale,
            series=reading.series,
            best_of=reading.best_of,
            stands_for=self.scale_columns,
            crossed=self._crossed(axes) if beside else (),
            loss=self.loss,
        )
        study = Study(
            name=self.name,
            trial=self._trial_path(),
            base={
                "recipe": self.source or self.name,
                **_recorded(absolute_places(plain(self.validate(base)))),
                **({} if tune is None else {TUNE: tune.to_json()}),
            },
            axes=axes,
            seeds=seeds,
            extra=[
                {"seeds": seeds if item.get("method") in OF_EVERY_SEED else seeds[:1], **place, **item}
                for item in beside
                for place in _places(axes, roles.crossed)
            ],
            roles=roles,
        )
        for config in configs_of(study):
            self.validate(config)
        return study

    def _take_axes(self, base: dict[str, Any], own: Mapping[str, Sequence[object]]) -> dict[str, Sequence[object]]:
        """The study's axes; what of ``base`` belongs to them is taken out of it."""
        axes = dict(own)
        plural = plural_keys(self.config)
        for key in list(base):
            value = base[key]
            listed = isinstance(value, (list, tuple))
            if listed and (key not in plural or (len(value) > 0 and isinstance(value[0], (list, tuple)))):
                axes[key] = list(base.pop(key))
            elif key in axes:
                axes[key] = [base.pop(key)]
        return axes

    def _crossed(self, axes: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
        """The axes that change the episodes or the model of a baseline, at whose values it therefore runs."""
        learner_only = LEARNER_KEYS if issubclass(self.config, FewShotConfig) else frozenset(axes)
        return tuple(key for key in axes if key not in learner_only)

    def _tune(self, given: Any, of_profile: Any) -> Search | None:
        """The search that ``tune`` asks for: true or a number of trials for the recipe's own space, or all of it.

        What it leaves open is as the profile has it, then as the recipe has it.
        """
        if given is None or given is False:
            return None
        given = {} if given is True else given if isinstance(given, Mapping) else {"trials": given}
        if isinstance(of_profile, Mapping):
            given = {**of_profile, **given}
        if not self.search and "space" not in given:
            raise InputError(f"recipe '{self.name}' has no ranges of its own to tune; give tune a space")
        return Search.from_json({**self.search, **given})

    def validate(self, config: Mapping[str, object]) -> Config:
        """The configuration of one trial; keys that are not given have the recipe's defaults."""
        own = {key: value for key, value in config.items() if key not in NOT_CONFIGURED}
        if is_search(own):
            del own["kind"]
        return validate(self.config, {**self.defaults, **self._brought(own), **own}, f"recipe '{self.name}'")

    def following(self, values: Mapping[str, object]) -> list[Follows]:
        """Which other defaults these values bring with them; a value that is not given is the recipe's own."""
        return [one for one in self.follows if one.key in values and one.when(values[one.key])]

    def _brought(self, values: Mapping[str, object]) -> dict[str, object]:
        return {key: value for one in self.following(values) for key, value in one.values.items()}

    def _brought_by_axes(self, axes: Mapping[str, Sequence[Any]]) -> dict[str, object]:
        """
        Raises:
            InputError: values of one axis bring different defaults, which one study cannot have.
        """
        found: dict[str, object] = {}
        for key, values in axes.items():
            brought = [self._brought({key: value}) for value in values]
            if any(each != brought[0] for each in brought):
                raise InputError(
                    f"recipe '{self.name}': values of '{key}' have other defaults than each other "
                    f"({', '.join(map(repr, values))}); run them as two studies",
                    field=key,
                    value=tuple(values),
                )
            found |= brought[0] if brought else {}
        return found

    def data_sets_of(self, config: Mapping[str, object]) -> tuple[str, ...]:
        """The data sets that a trial with this configuration reads."""
        return self.data_sets(self.validate(config)) if callable(self.data_sets) else self.data_sets

    def presentation(self, profile: str | None = None) -> dict[str, object]:
        """What the report needs to know beside the study itself."""
        return {"question": self.profile(profile).question or self.question}

    def profile(self, name: str | None) -> Profile:
        """
        Raises:
            InputError: the recipe has no profile of that name.
        """
        if name is None:
            return Profile("")
        if name not in self.profiles:
            allowed = ", ".join(self.profiles) or "none"
            raise InputError(f"recipe '{self.name}' has no profile '{name}'; it has: {allowed}")
        return self.profiles[name]

    def make_parts(self, settings: Config, seed: int, device: str) -> Parts:
        """The task source and the model of a few-shot trial; a metric learner's is wrapped around the recipe's."""
        parts: Parts = self._function("parts")(settings, seed, device)
        if isinstance(settings, FewShotConfig) and settings.metric:
            from metascale.models.metric import METRICS, MetricClassifier

            n_classes = settings.n_way if settings.train_n_way is None else None
            model = MetricClassifier(parts.model, n_classes, METRICS[settings.metric]())
            return dataclasses.replace(parts, model=model)
        return parts

    def run_trial(self, config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
        """One trial's row of results, by the recipe's own ``trial``."""
        row: Mapping[str, Any] = self._function("trial")(config, run, device)
        return row

    def count_costs(self, study: Study) -> CostTable | None:
        """What the study's trials take, where the recipe counts it itself."""
        return self._function("costs")(study) if hasattr(self.module, "costs") else None

    def counts(self, study: Study) -> dict[Config, int]:
        """How many trials have each configuration, whatever their seeds; those of searches at the base's values."""
        counted: Counter[Config] = Counter(self.validate(trial.config) for trial in study.trials())
        if (search := search_of(study)) is not None:
            for point in searched_points(study, search):
                counted[self.validate(merge(study.base, point))] += search.trials
        return dict(counted)

    @property
    def checks(self) -> bool:
        """Whether the recipe has a check of its own."""
        return hasattr(self.module, "check")

    def check(self, settings: Config) -> None:
        """Refuse what a trial with this configuration would only find when it runs."""
        self._function("check")(settings)

    def conclude(self, view: StudyView, table: ResultsTable) -> list[Path]:
        """Write what the recipe concludes beyond the law; the paths written."""
        return list(self._function("conclude")(view, table)) if hasattr(self.module, "conclude") else []

    def _function(self, name: str) -> Callable[..., Any]:
        """A function of the recipe's file.

        Raises:
            InputError: there is none of that name.
        """
        function: Callable[..., Any] | None = getattr(self.module, name, None)
        if function is None:
            raise InputError(f"recipe '{self.name}' defines no function '{name}'")
        return function

    def _trial_path(self) -> str:
        """The import path of the trial function; a recipe that is a file is loaded by `own_trial`."""
        if self.module is None:
            raise InputError(f"recipe '{self.name}' makes studies once it is loaded by its name or file (load_recipe)")
        if not hasattr(self.module, "trial"):
            return FEW_SHOT
        return f"{__name__}:{own_trial.__name__}" if is_file(self.source) else f"{self.module.__name__}:trial"


def _recorded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a study keeps them: without younger keys that change nothing."""
    return {key: value for key, value in values.items() if key not in LATER_KEYS or value != LATER_KEYS[key]}


def configs_of(study: Study) -> Iterator[Mapping[str, Any]]:
    """The configuration of every trial, and those at both ends of every searched range; the latter have no seed."""
    yield from (trial.config for trial in study.trials())
    if (search := search_of(study)) is None:
        return
    for point, share in itertools.product(searched_points(study, search), (0.0, 1.0)):
        ends = {name: dimension.at(share) for name, dimension in search.space.items()}
        yield merge(study.base, {**point, **ends})


def own_trial(config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
    """One trial of a recipe that is a file."""
    return load_recipe(config["recipe"]).run_trial(config, run, device)


def recipe_of(study: Study) -> Recipe[Any] | None:
    """The recipe of a stored study; ``None`` for a study of the user's own trial function.

    Raises:
        InputError: the recipe is not where it was when the study began.
    """
    name = study.base.get("recipe")
    return stored_recipe(name, f"study '{study.name}'") if name else None


def stored_recipe(name: str, of: str) -> Recipe[Any]:
    """The recipe that a study's files name; not by a relative path, so that files from elsewhere choose no code to run.

    Raises:
        InputError: the recipe is not where it was when the study began.
    """
    if is_file(name) and not Path(name).is_absolute():
        raise InputError(f"{of} names its recipe by a relative path, {name}; recipes write absolute ones")
    try:
        return load_recipe(name)
    except InputError as error:
        raise InputError(f"{of} needs its recipe: {error}") from error


def roles_of(study: Study) -> Roles:
    """The study's roles; where it states none, its recipe's scale or the first axis of numbers, and series."""
    if study.roles is not None:
        return study.roles
    recipe = recipe_of(study)
    return assign(study.axes, stands_for=recipe.scale_columns if recipe else None, loss=recipe.loss if recipe else "")


def _places(axes: Mapping[str, Sequence[Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of the values of some axes."""
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axes[key] for key in keys))]


def recipe_names() -> tuple[str, ...]:
    """Names of all recipes: those of metascale, then those of installed packages."""
    return (*SHIPPED, *sorted({_plain(point.name) for point in _entry_points()} - {*SHIPPED}))


def load_recipe(name: str) -> Recipe[Any]:
    """A recipe by its name (``model-size`` is ``model_size``), or the ``RECIPE`` of a file (``my_recipe.py``).

    Raises:
        InputError: there is none; or it cannot be imported, or two packages use the name.
    """
    if is_file(name):
        path = Path(name).expanduser().resolve()
        return _recipe_of(module_of_file(path), str(path), f"the recipe file {path}")
    name = _plain(name)
    module, owner = _registered(name)
    recipe = _recipe_of(module, name, f"recipe '{name}' of {owner}")
    if _plain(recipe.name) != name:
        raise InputError(f"recipe '{name}' of {owner} calls itself '{recipe.name}'; the names must agree")
    return recipe


def is_file(name: str) -> bool:
    """Whether a recipe is named as a file."""
    return name.endswith(".py") or "/" in name


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _recipe_of(module: ModuleType, source: str, what: str) -> Recipe[Any]:
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{what} defines no RECIPE")
    return dataclasses.replace(recipe, source=source, module=module)


def _entry_points() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINTS))


def _registered(name: str) -> tuple[ModuleType, str]:
    """The module of a name, and who registered it."""
    modules = {SHIPPED[name]: "metascale"} if name in SHIPPED else {}
    for point in _entry_points():
        if _plain(point.name) == name:
            modules.setdefault(point.module, f"package '{point.dist.name if point.dist else point.module}'")
    if not modules:
        raise InputError(
            f"there is no recipe '{name}'; {suggest(name, recipe_names(), 'there are')}", field="recipe", value=name
        )
    if len(modules) > 1:
        raise InputError(f"recipe '{name}' is registered twice, by {' and by '.join(modules.values())}")
    ((module, owner),) = modules.items()
    try:
        return importlib.import_module(module), owner
    except ERRORS_OF_CODE as error:
        raise cannot_import(f"recipe '{name}' of {owner}", error) from error


@lru_cache
def module_of_file(path: Path, what: str = "recipe file") -> ModuleType:
    """The module that a user's file makes, known by its path, so that it hides no other module.

    Modules beside it can be imported; installed ones of the same name come first.
    """
    if not path.is_file():
        raise InputError(f"there is no {what} {path}", field="recipe", value=str(path))
    spec = importlib.util.spec_from_file_location(str(path), path)
    if spec is None or spec.loader is None:
        raise InputError(f"the {what} {path} is not a Python file (.py)")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except ERRORS_OF_CODE as error:
        del sys.modules[spec.name]
        raise cannot_import(f"the {what} {path}", error) from error
    return module


ERRORS_OF_CODE = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError, RuntimeError),
    *(SyntaxError, SystemExit, TypeError, ValueError),
)
"""What code raises by mistake when it is imported; an error of a kind of its own keeps its traceback."""


def cannot_import(what: str, error: BaseException) -> InputError:
    """The refusal of code that broke while it was imported; what metascale itself refused in it stays as it is."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, SystemExit):
        return InputError(f"{what} cannot be imported: it ends in sys.exit({error.code!r})", field="recipe")
    kind = "" if isinstance(error, (ImportError, SyntaxError)) else f"{type(error).__name__}: "
    return InputError(f"{what} cannot be imported: {kind}{error}", field="recipe")
