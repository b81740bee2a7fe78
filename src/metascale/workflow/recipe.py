"""What a ready-made study is: a configuration class, axes, baselines, profiles, and the parts of its trials."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from metascale.core.canonical import plain
from metascale.core.errors import InputError
from metascale.study.design import Study, load_function, merge
from metascale.study.search.points import searched_points
from metascale.study.search.search import KEY as TUNE
from metascale.study.search.search import KIND as TUNING
from metascale.study.search.search import PRUNE_KEY, Search
from metascale.workflow.config import validate

RECIPES = (
    "digits",
    "sinusoid",
    "synthetic",
    "omniglot",
    "omniglot_width",
    "banking77",
    "clinc150",
    "csv",
    "melora",
    "noisy_labels",
    "data_pruning",
    "auxiliary_tasks",
    "hypergradient_bias",
    "shapes",
    "model_size",
)
"""Names of the recipe modules; each holds one ``RECIPE`` and a function ``parts(config, seed, device)``."""

TRIAL = "metascale.workflow.fewshot:trial"
NOT_CONFIGURED = ("recipe", "trial", "seed", TUNE, PRUNE_KEY)
"""Keys of a trial's configuration that are the study's, not the recipe's."""


def is_search(config: Mapping[str, Any]) -> bool:
    """Whether a trial belongs to a search: it ends with its validation loss and never looks at the test tasks."""
    return config.get("kind") == TUNING


@dataclass(frozen=True)
class Profile:
    """A variant of a recipe: changed values, axes and seeds, and why."""

    about: str
    values: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Sequence[Any]] | None = None
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """One ready-made study.

    Args:
        name: what the command line calls it; also its module in this package.
        title: one line.
        question: what the study answers.
        config: the configuration class (a `RecipeConfig`); its defaults are the recipe's.
        axes: what varies, by key; without ``scale``, the first one with numbers is the x axis of the law.
        seeds: training seeds.
        baselines: methods that run once beside the axes, with overrides.
        profiles: variants by name.
        data_sets: what has to be in the data folder: names, or a function of a trial's configuration.
        packages: top-level modules that its trials import.
        hardware: where the default ran, and how long it took, or what it needs.
        trial: import path of the trial function.
        scale: the column of the results that the law runs along where that is no axis (a measured parameter count).
        series: the axes that tell one law from another; none means every axis but the scale.
        loss: the column of the results that the law is fitted to.
        translate: values as the user gave them to keys of ``config`` and axes, for recipes that also read other forms.
        search: what ``tune`` tunes unless it names a space of its own: keys of `metascale.study.search.search.Search`.
        tuned: whether ``tune`` is on unless it is set to false.
        conclusion: import path of a function from a study's view and table to the files it wrote into the folder: what
            the recipe concludes beyond the law, for its report.
        costs: import path of a function from a study to a title, headings and rows: what ``--dry-run`` prints.
    """

    name: str
    title: str
    question: str
    config: type[Any]
    axes: Mapping[str, Sequence[Any]]
    seeds: tuple[int, ...] = (0, 1, 2)
    baselines: tuple[Mapping[str, Any], ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    data_sets: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    packages: tuple[str, ...] = ("torch", "safetensors")
    hardware: str = ""
    trial: str = TRIAL
    scale: str | None = None
    series: tuple[str, ...] | None = None
    loss: str = "test_loss_nats"
    translate: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    search: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False
    conclusion: str | None = None
    costs: str | None = None

    def study(
        self,
        values: Mapping[str, Any] | None = None,
        profile: str | None = None,
        seeds: Sequence[int] | None = None,
        baselines: bool = True,
    ) -> Study:
        """The study with ``values`` over the profile's over the defaults; a list for a single-valued key is an axis.

        Every trial is validated here, before anything runs or is written.

        Raises:
            InputError: an unknown profile or key, or a value that is not allowed.
        """
        chosen = self._profile(profile)
        base = {**chosen.values, **self.translate(values or {})}
        tune = self._tune(base.pop(TUNE, self.tuned), chosen.values.get(TUNE))
        axes = dict(self.axes if chosen.axes is None else chosen.axes)
        plural = {f.name for f in dataclasses.fields(self.config) if "tuple" in str(f.type)}
        for key in list(base):
            value = base[key]
            listed = isinstance(value, (list, tuple))
            if listed and (key not in plural or (len(value) > 0 and isinstance(value[0], (list, tuple)))):
                axes[key] = list(base.pop(key))
            elif key in axes:
                axes[key] = [base.pop(key)]
        where = f"recipe '{self.name}'"
        if "n_tasks" in axes:
            base["n_tasks"] = None  # of the baselines, which have no training tasks
        defaults = validate(self.config, base, where)
        extra = [dict(item) for item in self.baselines] if baselines else []
        first_seed = list(seeds or chosen.seeds or self.seeds)
        study = Study(
            name=self.name,
            trial=self.trial,
            base={"recipe": self.name, **plain(defaults), **({} if tune is None else {TUNE: tune.to_json()})},
            axes=axes,
            seeds=first_seed,
            extra=[{"seeds": first_seed[:1], **item} for item in extra],
        )
        for trial in study.trials():
            self.validate(trial.config)
        if tune is not None:
            self._refuse_search(study, tune)
        return study

    def _tune(self, given: Any, of_profile: Any = None) -> Search | None:
        """The search that ``tune`` asks for: true or a number of trials for the recipe's own space, or all of it.

        What it leaves open is as the profile has it, then as the recipe has it.
        """
        if given is None or given is False:
            return None
        if isinstance(of_profile, Mapping):
            more = {} if given is True else given if isinstance(given, Mapping) else {"trials": given}
            given = {**of_profile, **more}
        own = {"space": given.get("space", {})} if isinstance(given, Mapping) and "space" in given else {}
        if not own and not self.search:
            raise InputError(f"recipe '{self.name}' has no ranges of its own to tune; give tune a space")
        if isinstance(given, Mapping):
            return Search.from_json({**self.search, **given})
        if given is True:
            return Search.from_json(self.search)
        return Search.from_json({**self.search, "trials": given})

    def _refuse_search(self, study: Study, search: Search) -> None:
        """Validate both ends of every range at every searched point."""
        for point in searched_points(study, search):
            for share in (0.0, 1.0):
                values = {name: dimension.at(share) for name, dimension in search.space.items()}
                self.validate(merge(study.base, {**point, **values}))

    def validate(self, config: Mapping[str, Any]) -> Any:
        """The configuration of one trial of this recipe's study, an instance of ``config``."""
        own = {key: value for key, value in config.items() if key not in NOT_CONFIGURED}
        if is_search(own):
            del own["kind"]
        return validate(self.config, own, f"recipe '{self.name}'")

    def data_sets_of(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The data sets that a trial with this configuration reads."""
        return self.data_sets(self.validate(config)) if callable(self.data_sets) else self.data_sets

    def count_costs(self, study: Study) -> tuple[str, list[str], list[list[str]]] | None:
        """A title, headings and rows of what the study's trials take, where the recipe counts it itself."""
        if self.costs is None:
            return None
        count: Any = load_function(self.costs)
        found: tuple[str, list[str], list[list[str]]] = count(study)
        return found

    def presentation(self) -> dict[str, Any]:
        """What the report needs to know beside the study itself: the question, and which columns the laws use."""
        columns = {"scale": self.scale, "series": self.series, "loss": self.loss}
        return {"question": self.question, **{key: plain(value) for key, value in columns.items() if value is not None}}

    def with_overrides(self, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
        """A trial's configuration with some values replaced, validated."""
        return self.validate(merge(config, overrides))

    def _profile(self, name: str | None) -> Profile:
        if name is None:
            return Profile("")
        if name not in self.profiles:
            allowed = ", ".join(self.profiles) or "none"
            raise InputError(f"recipe '{self.name}' has no profile '{name}'; it has: {allowed}")
        return self.profiles[name]


def recipe_module(name: str) -> ModuleType:
    """The module of a recipe; ``model-size`` is ``model_size``.

    Raises:
        InputError: no recipe has that name; says the nearest.
    """
    name = name.replace("-", "_")
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(RECIPES)}"
        raise InputError(f"there is no recipe '{name}'; {hint}")
    return importlib.import_module(f"metascale.recipes.{name}")


def load_recipe(name: str) -> Recipe:
    """The recipe of that name."""
    recipe: Recipe = recipe_module(name).RECIPE
    return recipe
