"""Published laws in several scales, as formulas: `LIBRARY`. To add one, write a `Formula` with its reference.

A law of one scale, and the surfaces that `fit` reports on (N, D) tables, are in `metascale.laws.families`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.laws.expression import as_name, is_formula, parse
from metascale.laws.formula import Formula
from metascale.laws.objective import LeastSquares

INF = float("inf")
POSITIVE, EXPONENT = (0.0, INF), (0.0, 4.0)

HOFFMANN = Formula(
    "hoffmann", "E + A/N**alpha + B/D**beta", ("N", "D"),
    "Hoffmann et al. 2022, Training compute-optimal large language models; values of Besiroglu et al. 2024",
    {"E": POSITIVE, "A": POSITIVE, "B": POSITIVE, "alpha": EXPONENT, "beta": EXPONENT},
    published={"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
)  # fmt: skip
KAPLAN = Formula(
    "kaplan_joint", "((N_c/N)**(alpha_N/alpha_D) + D_c/D)**alpha_D", ("N", "D"),
    "Kaplan et al. 2020, Scaling laws for neural language models, equation 1.5",
    {"N_c": (1.0, INF), "D_c": (1.0, INF), "alpha_N": (0.005, 2.0), "alpha_D": (0.005, 2.0)},
    {"alpha_N": 0.1, "alpha_D": 0.1, "N_c": 1e13, "D_c": 1e13},
    published={"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
)  # fmt: skip
_BEST_N = "min(N, (U**beta*alpha*A/(beta*B))**(1/alpha))"
MUENNIGHOFF = Formula(
    "muennighoff",
    f"E + A/({_BEST_N}*(1 + R_N*(1 - exp(-(N/{_BEST_N} - 1)/R_N))))**alpha"
    " + B/(min(U, D)*(1 + R_D*(1 - exp(-(D/min(U, D) - 1)/R_D))))**beta",
    ("N", "D", "U"),
    "Muennighoff et al. 2023, Scaling data-constrained language models, equations 5 to 7; D tokens seen, U unique ones",
    {"E": POSITIVE, "A": (1e-9, INF), "B": (1e-9, INF), "alpha": (0.01, 4.0), "beta": (0.01, 4.0),
     "R_N": (1e-3, 1e4), "R_D": (1e-3, 1e4)},
    {"E": 1.5, "A": 500.0, "B": 1500.0, "alpha": 0.35, "beta": 0.35, "R_N": 5.0, "R_D": 15.0},
    published={"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_N": 5.309739, "R_D": 15.387756},
    needs="U is at most D",
)  # fmt: skip
FARSEER = Formula(
    "farseer", "exp(a3*N**g3 + b3) + exp(a2*N**g2 + b2)*D**(-exp(a1*N**g1 + b1))", ("N", "D"),
    "Li et al. 2025, Predictable scale part II: Farseer, equation 3",
    {"g1": (0.01, 0.6), "g2": (-0.6, -0.01), "g3": (0.01, 0.6), "a1": (-5.0, 0.0), "a2": (0.0, 1e4), "a3": (-5.0, 0.0),
     "b1": (-5.0, 5.0), "b2": (-40.0, 40.0), "b3": (-5.0, 5.0)},
    {"a1": -0.124, "g1": 0.123, "b1": 0.424, "a2": 88.0, "g2": -0.1, "b2": -6.3, "a3": -0.021, "g3": 0.169,
     "b3": -0.09},
    published={"a1": -0.124, "g1": 0.123, "b1": 0.424, "a2": 88.01, "g2": -0.1, "b2": -6.287, "a3": -0.021,
               "g3": 0.169, "b3": -0.091},
)  # fmt: skip
_ROUTED = "(1/(1/(X - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max))"
MOE = Formula(
    "moe", f"exp(d + a*log(N) + b*log{_ROUTED} + c*log(N)*log{_ROUTED})", ("N", "X"),
    "Clark et al. 2022, Unified scaling laws for routed language models, equation 1; N dense parameters, X experts",
    {"E_start": (0.5, 64.0), "E_max": (65.0, 1e5)}, {"E_start": 2.0, "E_max": 300.0}, needs="X is at least 1",
)  # fmt: skip
MOE_PLAIN = Formula(
    "moe_unsaturated", "exp(d + a*log(N) + b*log(X) + c*log(N)*log(X))", ("N", "X"),
    "Clark et al. 2022, Unified scaling laws for routed language models, equation 5: experts that do not saturate",
)  # fmt: skip
VOCABULARY = Formula(
    "vocabulary", "E + A_1/N**alpha_1 + A_2/V**alpha_2 + B/D**beta", ("N", "V", "D"),
    "Tao et al. 2024, Scaling laws with vocabulary, equation 5: the unigram-normalised loss, which is negative",
    {"A_1": POSITIVE, "A_2": POSITIVE, "B": POSITIVE, "alpha_1": EXPONENT, "alpha_2": EXPONENT, "beta": EXPONENT},
    objective=LeastSquares(),
)  # fmt: skip
PARALLEL = Formula(
    "parallel", "E + A/(N*(k*log(P) + 1))**alpha", ("N", "P"),
    "Chen et al. 2025, Parallel scaling law for language models, equation 5; P parallel streams",
    {"E": POSITIVE, "A": POSITIVE, "k": (1e-6, 1e3), "alpha": (0.005, 4.0)}, {"k": 0.3, "alpha": 0.2},
    needs="P is at least 1",
)  # fmt: skip
SPARSITY = Formula(
    "sparsity", "(a_S*K**b_S + c_S)/N**b_N + (a_D/D)**b_D + c", ("N", "D", "K"),
    "Frantar et al. 2023, Scaling laws for sparsely-connected foundation models, equation 3; K = 1 - sparsity, N "
    "parameters that are not zero; values of T5 on C4",
    {"a_S": POSITIVE, "c_S": POSITIVE, "b_S": EXPONENT, "b_N": EXPONENT, "a_D": (1e-3, INF), "b_D": (0.01, 4.0),
     "c": POSITIVE},
    {"a_D": 1e8, "b_D": 0.2, "b_S": 0.7, "b_N": 0.25},
    published={"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.90e8, "b_D": 0.203, "c": 0.651},
)  # fmt: skip
LR_BATCH = Formula(
    "lr_batch",
    "E + A/N**alpha + B/D**beta + k_R*(log(R) - m_0 - m_N*log(N) - m_D*log(D))**2"
    " + k_S*(log(S) - n_0 - n_D*log(D))**2",
    ("N", "D", "R", "S"),
    "a bowl in the logarithms of learning rate R and batch size S, its centre as in Li et al. 2025, Predictable scale "
    "part I (step law): R = 1.79 N^-0.713 D^0.307, S = 0.58 D^0.571",
    {"E": POSITIVE, "A": POSITIVE, "B": POSITIVE, "alpha": EXPONENT, "beta": EXPONENT, "k_R": (1e-9, INF),
     "k_S": (1e-9, INF), "m_N": (-3.0, 3.0), "m_D": (-3.0, 3.0), "n_D": (-3.0, 3.0), "m_0": (-60.0, 60.0),
     "n_0": (-60.0, 60.0)},
    {"m_N": -0.713, "m_D": 0.307, "m_0": float(np.log(1.79)), "n_D": 0.571, "n_0": float(np.log(0.58))},
    published={"m_N": -0.713, "m_D": 0.307, "m_0": float(np.log(1.79)), "n_D": 0.571, "n_0": float(np.log(0.58))},
)  # fmt: skip
PRECISION = Formula(
    "precision", "E + A/(N*(1 - exp(-P/gamma)))**alpha + B/D**beta", ("N", "D", "P"),
    "Kumar et al. 2024, Scaling laws for precision, equation 3; P bits of the weights",
    {"E": POSITIVE, "A": POSITIVE, "B": POSITIVE, "alpha": EXPONENT, "beta": EXPONENT, "gamma": (1e-2, 1e3)},
    {"gamma": 2.7},
    published={"E": 2.7648, "A": 4299.0, "B": 18060.0, "alpha": 0.4965, "gamma": 2.6745},
)  # fmt: skip

LIBRARY = {
    law.name: law
    for law in (
        HOFFMANN, KAPLAN, MUENNIGHOFF, FARSEER, MOE, MOE_PLAIN, VOCABULARY, PARALLEL, SPARSITY, LR_BATCH, PRECISION,
    )
}  # fmt: skip


# The surfaces of `metascale.laws.families` as formulas.
IN_THE_LIBRARY = {"chinchilla": "hoffmann", "kaplan": "kaplan_joint", "data_constrained": "muennighoff"}


def mixture_law(n_domains: int) -> Formula:
    """The loss on one domain against the proportions of all: c + exp(sum of t_j r_j) (Ye et al. 2024, equation 6).

    The coefficient of the exponential is in the t_j, since the proportions sum to 1.
    """
    names = [f"r{j + 1}" for j in range(n_domains)]
    inside = " + ".join(f"t_{j + 1}*{name}" for j, name in enumerate(names))
    return Formula(
        "mixture", f"c + exp({inside})", tuple(names),
        "Ye et al. 2024, Data mixing laws, equation 6; the scales are proportions that sum to 1", {"c": POSITIVE},
        {f"t_{j + 1}": 0.5 for j in range(n_domains)}, needs="proportions sum to 1",
    )  # fmt: skip


def law_of(text: str, columns: Sequence[str]) -> Formula:
    """The law that a text names in these scales: one of `LIBRARY`, "mixture", or a formula.

    Raises:
        InputError: unknown, for another number of scales, or not a formula.
    """
    if is_formula(text):
        expression = parse(text, columns)
        return Formula("formula", text, expression.variables)
    if text == "mixture":
        return mixture_law(len(columns)).on(columns)
    if text in LIBRARY:
        return LIBRARY[text].on(columns)
    raise unknown_law(text, ["auto", *LIBRARY, "mixture"], columns)


def unknown_law(text: str, names: Sequence[str], columns: Sequence[str]) -> InputError:
    """The refusal of a law that is none of ``names`` and no formula."""
    scales = f"{len(columns)} scale{'s' * (len(columns) != 1)}"
    return InputError(
        f"the law '{text}' is unknown in {scales}, and no formula in {', '.join(map(as_name, columns))} such as "
        f"'E + A/{as_name(columns[0])}**alpha'; {suggest(text, names)}",
        field="law", value=text, allowed=", ".join(names),
    )  # fmt: skip
