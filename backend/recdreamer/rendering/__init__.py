"""Volume rendering: ray marching through occupied space, compositing, backgrounds, regularisers."""

from recdreamer.rendering.background import Background, random_backgrounds
from recdreamer.rendering.regularizers import (
    opaque_loss,
    smoothness_loss,
    sparsity_loss,
    weight_entropy_loss,
    z_variance_loss,
)
from recdreamer.rendering.render import RenderConfig, Rendering, render
