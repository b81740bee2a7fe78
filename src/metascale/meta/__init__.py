"""Meta-learning: one inner loop, meta-gradient estimators, learners, one evaluator, baselines."""
