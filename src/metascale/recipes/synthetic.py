"""Task scaling on generated texts whose difficulty is a dial: controlled experiments without any download.

Command:    metascale run synthetic --set difficulty=0.6 --out runs/synthetic
Data:       a made-up language; each class is a distribution over words, from disjoint (0) to identical (1)
Learner:    first-order MAML on a perceptron over word frequencies
Hardware:   any machine
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from metascale.workflow.config import BASELINES, Count, FewShotConfig
from metascale.workflow.recipe import Recipe
from metascale.workflow.text import WORDS, WORDS_LENGTH

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class SyntheticConfig(FewShotConfig):
    """Few-shot synthetic texts.

    Args:
        difficulty: 0 (classes share no words) to 1 (classes cannot be told apart).
        n_classes: classes of the language.
        width: hidden units.
        head: what the classifier of a task starts from: ``"learned"``, ``"shared"``, ``"zero"`` or ``"prototype"``.
    """

    difficulty: Annotated[float, Field(ge=0, le=1)] = 0.5
    n_classes: Annotated[int, Field(ge=15)] = 100
    width: Count = 64
    head: Literal["learned", "shared", "zero", "prototype"] = "learned"


RECIPE = Recipe(
    name="synthetic",
    title="Task scaling on generated texts with a difficulty dial",
    question="How do the difficulty of tasks and their number move meta-test loss?",
    config=SyntheticConfig,
    defaults={
        **WORDS,
        "k_shot": 5,
    },
    axes={"n_tasks": [5, 20, 100, 500]},
    baselines=BASELINES,
)


def parts(config: SyntheticConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.models.perceptron import Perceptron
    from metascale.tasks.synthetic_text import SyntheticLanguage, synthetic_text_tasks, word_encoder
    from metascale.tasks.words import BagOfWords
    from metascale.workflow.fewshot import Parts

    language = SyntheticLanguage(difficulty=config.difficulty, n_classes=config.n_classes)
    encoder = word_encoder(language)
    source = synthetic_text_tasks(encoder, language=language, **config.source_fields(seed))
    bag = BagOfWords(source, encoder.n_tokens, WORDS_LENGTH)
    return Parts(
        bag, Perceptron(encoder.n_tokens, config.n_way, config.width, depth=1, head=config.head), eval_batch=50
    )
