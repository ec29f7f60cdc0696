"""The diffusion prior: any Stable-Diffusion-type pipeline, frozen, with a branch that learns the renders."""
