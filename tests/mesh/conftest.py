"""Results shared by the tests of the mesh part."""

import pytest

from recdreamer.mesh import Mesh, extract_mesh

from .fields import SMALL, ball


@pytest.fixture(scope="session")
def sphere_mesh() -> Mesh:
    """Ball of radius 0.6, before unwrapping."""
    return extract_mesh(ball(0.6), SMALL)
