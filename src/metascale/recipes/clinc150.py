"""Task scaling on CLINC150, with whole domains held out if asked for.

Command:    metascale run clinc150 --profile laptop --data-dir data --out runs/clinc150
            metascale run clinc150 --profile frozen --executor serial --data-dir data --out runs/frozen    (MiniLM, CPU)
Data:       CLINC150 (CC BY 3.0), 150 intents of 10 domains, out-of-scope left out; split 90 / 30 / 30, or by domain
Learner:    Reptile over LoRA adapters, 5-way 5-shot, 15 queries (laptop: first-order MAML)
Hardware:   one GPU of 16 GB or more per worker; laptop: any CPU; frozen: minutes on a CPU
Result:     factors: more training classes lower the loss on unseen ones; more tasks over the same classes, or more
            visits, hardly do (docs/results/clinc150.md)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metascale.recipes.banking77 import DEFAULTS, FROZEN, LAPTOP, UNTRAINED
from metascale.workflow.config import BASELINES
from metascale.workflow.recipe import Profile, Recipe
from metascale.workflow.text import WITHOUT_A_MODEL, TextConfig, text_parts

if TYPE_CHECKING:
    from metascale.core.types import Encoder
    from metascale.tasks.fewshot import FewShotTasks
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class Clinc150Config(TextConfig):
    """Few-shot CLINC150.

    Args:
        by_domain: split whole domains (6 / 2 / 2) instead of intents.
    """

    by_domain: bool = False


RECIPE = Recipe(
    name="clinc150",
    title="Task scaling on the 150 intents of CLINC150",
    question="Does meta-test loss follow a power law in the number of training tasks?",
    config=Clinc150Config,
    defaults=DEFAULTS,
    axes={"n_tasks": [50, 100, 300, 1000, 3000]},
    seeds=(100, 101, 102),
    baselines=BASELINES,
    follows=(WITHOUT_A_MODEL,),
    profiles={
        "laptop": Profile(
            "a real pretrained Llama of 260k parameters on a CPU, and fewer steps",
            LAPTOP,
            axes={"n_tasks": [5, 20, 100, 500]},
            seeds=(0, 1, 2),
        ),
        "words": Profile(
            "no language model, a perceptron over word frequencies: minutes on a CPU",
            {"backbone": ""},
            axes={"n_tasks": [5, 20, 100, 500]},
            seeds=(0, 1, 2),
        ),
        "frozen": Profile(
            "a prototypical network over frozen sentence features of MiniLM, 20-way 1-shot; on the serial executor",
            FROZEN,
            axes={"n_tasks": [1, 2, 5, 10, 20, 50, 200, 2000]},
            seeds=(0, 1, 2),
            baselines=UNTRAINED,
        ),
        "classes": Profile(
            "as frozen, by the number of training classes, with a fresh task at every visit",
            {**FROZEN, "n_tasks": None},
            axes={"n_train_classes": [5, 10, 20, 45, 90]},
            seeds=(0, 1, 2),
            baselines=UNTRAINED,
            question="Does meta-test loss follow a power law in the number of training classes?",
        ),
        "factors": Profile(
            "as frozen, with about ten times the tasks, the classes and the visits, each with and without the others",
            FROZEN,
            axes={"n_tasks": [24, 240], "n_train_classes": [10, 90], "max_steps": [100, 1000]},
            seeds=(0, 1, 2, 3, 4),
            baselines=UNTRAINED,
            question="Do more tasks, more classes or more visits lower meta-test loss?",
        ),
    },
    data_sets=("clinc150",),
)


def parts(config: Clinc150Config, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.tasks.datasets import locate
    from metascale.tasks.intents import intent_tasks, read_clinc150

    def source(encoder: Encoder) -> FewShotTasks:
        return intent_tasks("clinc150", None, encoder, by_domain=config.by_domain, **config.source_fields(seed))

    def texts() -> list[str]:
        return [row.text for row in read_clinc150(locate("clinc150"))]

    return text_parts(config, source, texts, device)
