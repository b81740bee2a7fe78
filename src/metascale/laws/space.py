"""The forms among which `auto` chooses: structures of a floor, powers, products, interactions, logs and bowls.

Every form is a `Formula` in scales divided by their geometric mean, which stands in its text as a number. Exponents
have weak priors, the same for every table; they matter where few rows are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from metascale.laws.descent import Link
from metascale.laws.expression import as_name
from metascale.laws.formula import Formula
from metascale.laws.observations import Array

EXPONENT_BOUNDS = (-3.0, 4.0)
_MOST_PAIRS = 3  # scales up to which every pair gets an interaction of its own


def forms(names: Sequence[str], x: Array, link: Link) -> dict[str, Formula]:
    """The forms in these scales, by names such as ``floor + powers``.

    Args:
        x: [n, d] the table's scales: for their centres, and for pairs of which one is never above the other.
    """
    space = _Space(names, x, link)
    found = {**space.sums(), **space.logs()}
    if len(names) > 1:
        for k in range(len(names)):
            found.update(space.along(k))
        if len(names) <= _MOST_PAIRS:
            for i, j in itertools.permutations(range(len(names)), 2):
                found.update(space.pair(i, j))
    for whole, part in repeated(x):
        found.update(space.repeats(whole, part))
    return {name: space.formula(name, text) for name, text in found.items()}


def repeated(x: Array) -> list[tuple[int, int]]:
    """Pairs (whole, part) of columns where the part is never above the whole and sometimes equal to it.

    So do the unique tokens behave to the tokens seen: what is above is repeated.
    """
    found = []
    for i, j in itertools.permutations(range(x.shape[1]), 2):
        equal = np.isclose(x[:, i], x[:, j], rtol=1e-6)
        below = x[:, j] <= x[:, i] * (1 + 1e-6)
        if below.all() and equal.sum() >= 3 and (~equal).sum() >= 3:
            found.append((i, j))
    return found


class _Space:
    def __init__(self, names: Sequence[str], x: Array, link: Link) -> None:
        self.names, self.link, self.d = tuple(names), link, len(names)
        self.clean = [as_name(name) for name in names]
        self.centre = np.exp(np.log(x).mean(0))
        self.u = [f"({name}/{centre:.6g})" for name, centre in zip(self.clean, self.centre, strict=True)]

    def p(self, kind: str, *axes: int) -> str:
        """A parameter's name, which is no scale's."""
        name = "_".join([kind, *(self.clean[k] for k in axes)])
        while name in self.clean:
            name += "_"
        return name

    def power(self, k: int, kind: str = "a") -> str:
        return f"{self.u[k]}**(-{self.p(kind, k)})"

    def term(self, k: int) -> str:
        return f"{self.p('c', k)}*{self.power(k)}"

    def terms(self, but: Sequence[int] = ()) -> str:
        return "".join(f" + {self.term(k)}" for k in range(self.d) if k not in but)

    def log(self, k: int) -> str:
        return f"log({self.u[k]})"

    def product(self, but: Sequence[int] = ()) -> str:
        return "*".join([self.p("b"), *(self.power(k, "b") for k in range(self.d) if k not in but)])

    def sums(self) -> dict[str, str]:
        floor = self.p("E")
        found = {"floor + powers": f"{floor}{self.terms()}"}
        if self.d > 1:
            found["floor + product"] = f"{floor} + {self.product()}"
            found["floor + powers + product"] = f"{floor}{self.terms()} + {self.product()}"
            found["floor + (powers)^g"] = f"{floor} + ({self.terms()[3:]})**{self.p('g')}"
        return found

    def logs(self) -> dict[str, str]:
        floor, axes = self.p("E"), range(self.d)
        line = " + ".join([self.p("q"), *(f"{self.p('l', k)}*{self.log(k)}" for k in axes)])
        crossed = "".join(
            f" + {self.p('k', i, j)}*{self.log(i)}*{self.log(j)}" for i, j in itertools.combinations(axes, 2)
        )
        bent = "".join(f" + {self.p('k', k, k)}*{self.log(k)}**2" for k in axes)
        found = {}
        for name, text in (("crossed logs", line + crossed), ("square of logs", line + crossed + bent)):
            if name == "crossed logs" and self.d == 1:
                continue
            found[name] = f"exp({text})" if self.link == "log" else text
            found[f"floor + {name}"] = f"{floor} + exp({text})"
        return found

    def along(self, k: int) -> dict[str, str]:
        """A bowl along one scale whose centre moves with the others, and powers of it that saturate."""
        floor, name = self.p("E"), self.names[k]
        others = [j for j in range(self.d) if j != k]
        bowl = f"{self.p('l', k)}*{self.log(k)} + {self.p('k', k, k)}*{self.log(k)}**2"
        moved = "".join(f" + {self.p('k', k, j)}*{self.log(k)}*{self.log(j)}" for j in others)
        tilted = "".join(f" + {self.p('l', j)}*{self.log(j)}" for j in others)
        saturated = f"(1/{self.u[k]} + {self.p('s', k)})**{self.p('a', k)}"
        return {
            f"floor + powers + bowl in {name}": f"{floor}{self.terms([k])} + {bowl}{moved}",
            f"floor + powers + product with bowl in {name}":
                f"{floor}{self.terms([k])} + {self.p('b')}*exp({bowl}{moved}{tilted})",
            f"floor + powers, {name} saturating": f"{floor}{self.terms([k])} + {self.p('c', k)}*{saturated}",
            f"floor + product, {name} saturating": f"{floor} + {self.product([k])}*{saturated}",
            f"floor + powers + product, {name} saturating":
                f"{floor}{self.terms([k])} + {self.product([k])}*{saturated}",
        }  # fmt: skip

    def pair(self, i: int, j: int) -> dict[str, str]:
        """The exponent and the coefficient of scale j change with scale i, as in Farseer's law (Li et al. 2025)."""
        changing = f"(-({self.p('n', j)} + {self.p('o', i, j)}*{self.log(i)}))"
        bend = f"{self.p('b')}*{self.u[i]}**{self.p('m', i)}*{self.u[j]}**{changing}"
        return {f"floor + powers, {self.names[j]}'s changing with {self.names[i]}":
                f"{self.p('E')}{self.terms([j])} + {bend}"}  # fmt: skip

    def repeats(self, whole: int, part: int) -> dict[str, str]:
        """Repeated data saturate: D' = U (1 + R (1 - exp(-(D/U - 1)/R))) (Muennighoff et al. 2023)."""
        times = f"({self.clean[whole]}/{self.clean[part]} - 1)"
        effective = (f"({self.u[part]}*(1 + {self.p('R')}*(1 - exp(-{times}/{self.p('R')}))))"
                     f"**(-{self.p('n', part)})")  # fmt: skip
        rest, name = self.terms([whole, part]), f"{self.names[whole]} repeating {self.names[part]}"
        found = {f"floor + powers, {name}": f"{self.p('E')}{rest} + {self.p('b')}*{effective}"}
        for k in [k for k in range(self.d) if k not in (whole, part)]:
            others = self.terms([whole, part, k])
            grown = f"{self.term(k)}*exp({self.p('h')}*{times}/{self.p('R')})"
            found[f"floor + powers, {name}, {self.names[k]} overfitting"] = (
                f"{self.p('E')}{others} + {grown} + {self.p('b')}*{effective}"
            )
        return found

    def formula(self, name: str, text: str) -> Formula:
        law = Formula(name, text, self.names, "one of the forms that `auto` tries")
        bounds, priors = {}, {}
        for parameter in law.expression.parameters:
            kind = parameter.split("_")[0]
            if kind in ("c", "b") or (kind == "E" and self.link == "log"):
                bounds[parameter] = (0.0, np.inf)
            if kind in ("a", "n", "m") or (kind == "b" and parameter != self.p("b")):
                bounds[parameter] = EXPONENT_BOUNDS
            if kind in LIMITS:
                bounds[parameter] = LIMITS[kind]
            if kind in PRIORS and not (kind == "b" and parameter == self.p("b")):
                priors[parameter] = PRIORS[kind]
        return Formula(law.name, text, self.names, law.reference, bounds, priors=priors)


LIMITS = {"R": (1e-2, 1e3), "s": (1e-9, 1e4), "g": (0.05, 5.0), "o": (-1.0, 1.0)}
PRIORS = {
    "a": (0.3, 0.5), "b": (0.3, 0.5), "n": (0.3, 0.5), "m": (0.0, 0.5), "o": (0.0, 0.2), "R": (2.0, 2.0),
    "g": (0.0, 1.0), "s": (-4.0, 4.0), "h": (0.0, 1.0),
}  # fmt: skip
