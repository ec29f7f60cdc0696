"""θ of each stage: its parameters, how they are rendered, and how a gradient moves them."""
