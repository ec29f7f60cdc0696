"""Score distillation: the questions and gradients of each method, as small pure functions."""
