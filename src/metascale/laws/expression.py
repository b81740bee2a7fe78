"""Formulas in several scales: parsed from text by an allow-listed syntax tree, evaluated and differentiated exactly.

``E + A/N**alpha + B/(D*U)**beta`` is arithmetic on the names of the table's scales and on parameters, which are all
other names. Nothing of Python is ever run: what is no number, name, operator or function of `FUNCTIONS` is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metascale.core.errors import InputError
from metascale.laws.observations import Array

FUNCTIONS = ("exp", "log", "log2", "log10", "sqrt", "tanh", "min", "max")
_OPERATORS = "+ - * / ** ( )"
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow",
}  # fmt: skip
_MOST_OPERATIONS = 200
_MOST_LETTERS = 4000


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: ``const`` (value), ``var`` and ``par`` (name), or an operator on its arguments."""

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: float = 0.0


ONE, ZERO = Node("const", value=1.0), Node("const", value=0.0)


@dataclass(frozen=True)
class Expression:
    """A parsed formula.

    Attributes:
        variables: the scales, in the order of the columns that it is evaluated on.
        parameters: all other names, in the order in which they appear.
    """

    text: str
    root: Node
    variables: tuple[str, ...]
    parameters: tuple[str, ...]

    def bind(self, x: Array) -> Bound:
        """The formula at rows of scales ``x`` [n, d]; what does not depend on parameters is computed once."""
        return Bound(self, x)

    def fixed(self, values: Mapping[str, float]) -> Expression:
        """The formula with these parameters replaced by numbers."""
        root = _replace(self.root, {name: Node("const", value=float(value)) for name, value in values.items()})
        return Expression(
            self.text, root, self.variables, tuple(name for name in self.parameters if name not in values)
        )

    @cached_property
    def linear(self) -> tuple[str, ...]:
        """Parameters in which the formula is jointly linear, the others given."""
        chosen: tuple[str, ...] = ()
        for name in self.parameters:
            if _affine(self.root, frozenset((*chosen, name))) is not None:
                chosen = (*chosen, name)
        return chosen

    @cached_property
    def logarithm(self) -> Expression | None:
        """What the whole formula is the exponential of, if it is one."""
        if self.root.op != "exp":
            return None
        return Expression(self.text, self.root.args[0], self.variables, self.parameters)

    @cached_property
    def parts(self) -> tuple[tuple[Expression, ...], Expression | None]:
        """What multiplies each `linear` parameter, and the rest; in the nonlinear parameters only."""
        found = _affine(self.root, frozenset(self.linear)) or {}
        others = tuple(name for name in self.parameters if name not in self.linear)

        def part(root: Node) -> Expression:
            return Expression(self.text, root, self.variables, others)

        rest = found.get("")
        return tuple(part(found[name]) for name in self.linear), None if rest is None else part(rest)

    @cached_property
    def roles(self) -> dict[str, tuple[str, ...]]:
        """By nonlinear parameter: ``("exponent",)``, or the variables in whose unit it may be counted, or nothing."""
        found: dict[str, set[str]] = {name: set() for name in self.parameters}
        _find_roles(self.root, found)
        return {name: ("exponent",) if "exponent" in roles else tuple(sorted(roles)) for name, roles in found.items()}


class Bound:
    """An expression on a table; ``theta`` is [S, p] in the order of its parameters."""

    def __init__(self, expression: Expression, x: Array) -> None:
        self.expression = expression
        self.n = len(x)
        self._tape: list[tuple[str, tuple[int, ...], int]] = []
        self._fixed: dict[int, Any] = {}
        self._index: dict[Node, int] = {}
        self._columns = {name: x[:, k][None] for k, name in enumerate(expression.variables)}
        self._last = self._add(expression.root)
        self._moving = [k for k in range(len(self._tape)) if k not in self._fixed]

    def _add(self, node: Node) -> int:
        if node in self._index:
            return self._index[node]
        arguments = tuple(self._add(part) for part in node.args)
        parameter = self.expression.parameters.index(node.name) if node.op == "par" else -1
        k = len(self._tape)
        self._tape.append((node.op, arguments, parameter))
        self._index[node] = k
        if node.op == "const":
            self._fixed[k] = np.full((1, 1), node.value)
        elif node.op == "var":
            self._fixed[k] = self._columns[node.name]
        elif node.op != "par" and all(part in self._fixed for part in arguments):
            self._fixed[k] = _FORWARD[node.op](*(self._fixed[part] for part in arguments))
        return k

    def _forward(self, theta: NDArray[Any]) -> dict[int, Any]:
        values = dict(self._fixed)
        for k in self._moving:
            op, arguments, parameter = self._tape[k]
            if op == "par":
                values[k] = theta[:, parameter, None]
            elif op == "pow" and arguments[0] in self._fixed:
                values[k] = np.exp(values[arguments[1]] * self._log(arguments[0]))
            else:
                values[k] = _FORWARD[op](*(values[part] for part in arguments))
        return values

    def _log(self, k: int) -> Any:
        key = -1 - k
        if key not in self._fixed:
            self._fixed[key] = np.log(self._fixed[k])
        return self._fixed[key]

    def value(self, theta: NDArray[Any]) -> NDArray[Any]:
        """[S, n]."""
        found = self._forward(theta)[self._last]
        return np.array(np.broadcast_to(found, (len(theta), self.n)))

    def value_and_jacobian(self, theta: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """[S, n] and the derivatives [S, n, p], by reverse accumulation along the tape."""
        values = self._forward(theta)
        shape = (len(theta), self.n)
        jacobian = np.zeros((theta.shape[1], *shape), theta.dtype)
        adjoint: dict[int, Any] = {self._last: np.ones((1, 1), theta.dtype)}
        for k in reversed(self._moving):
            if k not in adjoint:
                continue
            op, arguments, parameter = self._tape[k]
            given = adjoint.pop(k)
            if op == "par":
                jacobian[parameter] += given
                continue
            for place, part in enumerate(arguments):
                if part in self._fixed:
                    continue
                logs = self._log(arguments[0]) if op == "pow" and place == 1 and arguments[0] in self._fixed else None
                step = given * _derivative(op, place, [values[a] for a in arguments], values[k], logs)
                adjoint[part] = adjoint[part] + step if part in adjoint else step
        value = np.array(np.broadcast_to(values[self._last], shape))
        return value, np.moveaxis(jacobian, 0, -1)


_FORWARD: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": lambda a, b: _power(a, b),
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "min": lambda a, b: np.where(np.real(a) <= np.real(b), a, b),
    "max": lambda a, b: np.where(np.real(a) >= np.real(b), a, b),
}


def _power(a: Any, b: Any) -> Any:
    if np.size(b) == 1 and np.isrealobj(b) and float(np.reshape(b, -1)[0]).is_integer():
        return a ** int(np.reshape(b, -1)[0]) if np.reshape(b, -1)[0] >= 0 else 1.0 / a ** int(-np.reshape(b, -1)[0])
    return np.exp(b * np.log(a))


def _derivative(op: str, place: int, a: list[Any], value: Any, logs: Any) -> Any:
    """Of one operation with respect to its argument ``place``."""
    if op in ("add", "exp", "neg"):
        return {"add": 1.0, "exp": value, "neg": -1.0}[op]
    if op == "sub":
        return 1.0 if place == 0 else -1.0
    if op == "mul":
        return a[1 - place]
    if op == "div":
        return 1.0 / a[1] if place == 0 else -value / a[1]
    if op == "pow":
        return a[1] * _power(a[0], a[1] - 1.0) if place == 0 else value * (np.log(a[0]) if logs is None else logs)
    if op == "log":
        return 1.0 / a[0]
    if op == "tanh":
        return 1.0 - value * value
    first = np.real(a[0]) <= np.real(a[1]) if op == "min" else np.real(a[0]) >= np.real(a[1])
    return (first if place == 0 else ~first).astype(float)


def parse(text: str, variables: Sequence[str]) -> Expression:
    """Read a formula; names in ``variables`` are scales, all others parameters.

    A scale whose column is no plain name (``Model Size``) is written with underscores (``Model_Size``). A left side
    (``L = ...``) is allowed and ignored; ``^`` means a power.

    Raises:
        InputError: not a formula, a construct that is not allowed, a scale that it does not use, or no parameter.
    """
    body = text.split("=", 1)[1] if text.count("=") == 1 else text
    if len(text) > _MOST_LETTERS:
        raise _refuse(text[:40] + "...", f"it has {len(text)} letters", f"at most {_MOST_LETTERS}")
    try:
        tree = ast.parse(body.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refuse(text, "it is not a formula", f"names, numbers, {_OPERATORS}, {', '.join(FUNCTIONS)}") from error
    names = {as_name(column): column for column in variables}
    parameters: list[str] = []
    operations = sum(isinstance(part, (ast.BinOp, ast.UnaryOp, ast.Call)) for part in ast.walk(tree))
    if operations > _MOST_OPERATIONS:
        raise _refuse(text, f"it has {operations} operations", f"at most {_MOST_OPERATIONS}")
    root = _read(tree.body, text, names, parameters)
    unused = [column for column in variables if column not in _variables(root)]
    if unused:
        raise _refuse(text, f"it does not use the scale '{unused[0]}'", "formulas in all of the scales named")
    if not parameters:
        raise _refuse(text, "it has no parameter to fit", "at least one name that is not a scale")
    return Expression(text, root, tuple(variables), tuple(parameters))


def is_formula(text: str) -> bool:
    """Whether a law was given as a formula and not by a name of the library."""
    return not text.strip().replace("-", "_").isidentifier()


def as_name(column: str) -> str:
    """How a column is written in a formula."""
    clean = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in column)
    return clean if clean.isidentifier() else f"_{clean}"


def names_in(text: str) -> set[str]:
    """All names in a formula but those of functions; empty where it is none."""
    body = text.split("=", 1)[1] if text.count("=") == 1 else text
    try:
        tree = ast.parse(body.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)} - set(FUNCTIONS)


def _refuse(text: str, why: str, allowed: str) -> InputError:
    return InputError(f"the law '{text}': {why}; allowed are {allowed}", field="law", value=text, allowed=allowed)


def _read(tree: ast.expr, text: str, names: Mapping[str, str], parameters: list[str]) -> Node:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, (int, float)) and not isinstance(tree.value, bool):
        if not np.isfinite(float(tree.value)):
            raise _refuse(text, "a number is not finite", "finite numbers")
        return Node("const", value=float(tree.value))
    if isinstance(tree, ast.Name) and tree.id not in FUNCTIONS:
        if tree.id in names:
            return Node("var", name=names[tree.id])
        if tree.id not in parameters:
            parameters.append(tree.id)
        return Node("par", name=tree.id)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _BINARY:
        both = (_read(tree.left, text, names, parameters), _read(tree.right, text, names, parameters))
        return Node(_BINARY[type(tree.op)], both)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, (ast.USub, ast.UAdd)):
        inner = _read(tree.operand, text, names, parameters)
        return Node("neg", (inner,)) if isinstance(tree.op, ast.USub) else inner
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id in FUNCTIONS:
        return _call(tree, tree.func.id, text, names, parameters)
    found = ast.unparse(tree)
    allowed = f"numbers, names, {_OPERATORS} and {', '.join(FUNCTIONS)}"
    raise _refuse(text, f"'{found[:60]}' cannot stand in a formula", allowed)


def _call(tree: ast.Call, name: str, text: str, names: Mapping[str, str], parameters: list[str]) -> Node:
    wanted = 2 if name in ("min", "max") else 1
    if len(tree.args) != wanted or tree.keywords:
        raise _refuse(text, f"{name} was given {len(tree.args)} arguments", f"{name} of {wanted}")
    inner = tuple(_read(part, text, names, parameters) for part in tree.args)
    if name == "sqrt":
        return Node("pow", (*inner, Node("const", value=0.5)))
    if name in ("log2", "log10"):
        return Node("div", (Node("log", inner), Node("const", value=float(np.log(2 if name == "log2" else 10)))))
    return Node(name, inner)


def _variables(node: Node) -> set[str]:
    own = {node.name} if node.op == "var" else set()
    return own.union(*(_variables(part) for part in node.args))


def _parameters(node: Node) -> set[str]:
    own = {node.name} if node.op == "par" else set()
    return own.union(*(_parameters(part) for part in node.args))


def _replace(node: Node, values: Mapping[str, Node]) -> Node:
    if node.op == "par":
        return values.get(node.name, node)
    return Node(node.op, tuple(_replace(part, values) for part in node.args), node.name, node.value)


def _affine(node: Node, linear: frozenset[str]) -> dict[str, Node] | None:
    """By linear parameter ("" for none) what it is multiplied with; None where the formula is not linear in them."""
    if not linear & _parameters(node):
        return {"": node}
    if node.op == "par":
        return {node.name: ONE}
    parts = [_affine(part, linear) for part in node.args]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    if node.op in ("add", "sub", "neg"):
        return _sum(node.op, known)
    if node.op == "mul":
        first, second = known
        if set(first) == {""}:
            return {name: _times(first[""], part) for name, part in second.items()}
        if set(second) == {""}:
            return {name: _times(part, second[""]) for name, part in first.items()}
    if node.op == "div" and set(known[1]) == {""}:
        return {name: Node("div", (part, known[1][""])) for name, part in known[0].items()}
    return None


def _sum(op: str, known: list[dict[str, Node]]) -> dict[str, Node]:
    if op == "neg":
        return {name: Node("neg", (part,)) for name, part in known[0].items()}
    found = dict(known[0])
    for name, part in known[1].items():
        if name in found:
            found[name] = Node(op, (found[name], part))
        else:
            found[name] = part if op == "add" else Node("neg", (part,))
    return found


def _times(a: Node, b: Node) -> Node:
    return b if a == ONE else a if b == ONE else Node("mul", (a, b))


def _find_roles(node: Node, found: dict[str, set[str]]) -> None:
    """Exponents; and, in sums, products and quotients with a variable, the variables that a parameter stands beside."""
    if node.op in ("pow", "exp"):
        for name in _parameters(node.args[-1]):
            found[name].add("exponent")
    if node.op in ("add", "sub", "mul", "div", "min", "max"):
        for one, other in (node.args, node.args[::-1]):
            if one.op == "par" and other.op in ("var", "mul", "div", "add"):
                found[one.name] |= _variables(other)
    for part in node.args:
        _find_roles(part, found)
