"""θ of each stage: what is optimized, how it is rendered, and how a gradient moves it."""
