"""The diffusion prior: a frozen pipeline of the Stable Diffusion type, and a branch that learns the renders."""
