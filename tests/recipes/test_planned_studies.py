"""What every recipe and profile plans, as a table that lasts: its values make the ids of trials, so that with another
default the studies that people have, and the records in the documentation, would be left behind.

    python -m tests.recipes.test_planned_studies    writes the table anew, after a default was changed on purpose
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metascale.workflow.recipe import load_recipe, recipe_names

TABLE = Path(__file__).with_name("planned_studies.json")
GIVEN = {"csv": {"path": "/texts.csv"}}


def planned(name: str, profile: str | None) -> dict[str, Any]:
    study = load_recipe(name).study(GIVEN.get(name), profile)
    roles = None if study.roles is None else study.roles.to_json()
    found = {"base": dict(study.base), "axes": [[key, list(values)] for key, values in study.axes.items()]}
    found |= {"seeds": list(study.seeds), "extra": [dict(one) for one in study.extra], "roles": roles}
    return dict(json.loads(json.dumps(found | {"trials": len(study.trials())})))


def table_of(name: str) -> dict[str, Any]:
    """The recipe's own study, and of each profile what differs from it."""
    own = planned(name, None)
    found = {"": own}
    for profile in load_recipe(name).profiles:
        other = planned(name, profile)
        base = {key: value for key, value in other.pop("base").items() if own["base"].get(key, "absent") != value}
        found[profile] = {"base": base, **{key: value for key, value in other.items() if own[key] != value}}
    return found


def written() -> dict[str, Any]:
    return dict(json.loads(TABLE.read_text())) if TABLE.exists() else {}


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where two tables differ, a line each."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = dict.fromkeys([*expected, *found])
        return [
            line for key in keys
            for line in differences(found.get(key, "absent"), expected.get(key, "absent"), f"{where}/{key}")
        ]  # fmt: skip
    return [] if found == expected else [f"{where}: {found!r}, and was {expected!r}"]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_plans_what_it_always_did(name: str) -> None:
    changed = differences(table_of(name), written().get(name, {}), name)
    assert not changed, (*changed, "where that was meant: python -m tests.recipes.test_planned_studies")


def text_of(table: dict[str, Any]) -> str:
    """JSON with a line a study."""
    recipes = []
    for name, studies in table.items():
        lines = ",\n".join(f'  "{profile}": {json.dumps(one)}' for profile, one in studies.items())
        recipes.append(f' "{name}": {{\n{lines}\n }}')
    return "{{\n{}\n}}\n".format(",\n".join(recipes))


if __name__ == "__main__":
    TABLE.write_text(text_of({name: table_of(name) for name in recipe_names()}))
