"""Score distillation: what each method says about a noised render, as small pure functions."""
