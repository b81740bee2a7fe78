"""Meta-train a small perceptron with Reptile on handwritten digits, and test it on digits that it has never seen.

python examples/reptile_digits.py        about 10 seconds on one core; needs metascale[demo]
"""

from __future__ import annotations

from metascale.core import MemoryRun
from metascale.meta import Evaluation, InnerLoop, MetaLearner, MetaTraining, Reptile, adapted_predictor, evaluate
from metascale.models import Perceptron
from metascale.tasks import digits_tasks
from metascale.training import SGD, Schedule, train


def main(max_steps: int = 1000, n_test_tasks: int = 200) -> Evaluation:
    source = digits_tasks(n_way=5, k_shot=5, n_train_tasks=200)
    model = Perceptron(n_inputs=64, n_outputs=5)
    learner = MetaLearner(Reptile(InnerLoop(SGD(lr=0.3), steps=10)), outer=SGD(lr=0.5))
    result = train(MetaTraining(model, learner, source), Schedule(max_steps, patience=5), MemoryRun())
    predictor = adapted_predictor(model, learner.gradient.inner, result.state.params, inner_steps=[0, 1, 10, 50])
    return evaluate(predictor, source, "test", n_test_tasks)


if __name__ == "__main__":
    for row in main().curve():
        print(f"{row['inner_steps']:3d} steps: loss {row['loss_nats']:.3f} nats, accuracy {row['accuracy']:.1%}")
