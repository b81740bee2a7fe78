"""Contract suites and closed forms, shipped so that a user's own task, model or learner can run through them."""
