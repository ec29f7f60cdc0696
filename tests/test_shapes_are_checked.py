"""The annotations are executed: a wrong shape, a wrong type or a wrong field fails, in every module."""

import importlib
import pkgutil

import jaxtyping
import pytest

import recdreamer
from recdreamer.shared.protocol import JobFolder, Template, write_atomically


def test_a_wrong_argument_type_fails():
    with pytest.raises(jaxtyping.TypeCheckError):
        write_atomically("a plain string", "data")


def test_a_wrong_dataclass_field_fails():
    with pytest.raises(jaxtyping.TypeCheckError):
        JobFolder(root="a plain string")
    with pytest.raises(jaxtyping.TypeCheckError):
        Template(label="front", image="front.png", azimuth_deg="ninety")


def test_a_wrong_shape_fails():
    import torch

    from recdreamer.cameras import orbit_cameras

    assert orbit_cameras(torch.zeros(3), torch.zeros(3), 2.0, 40.0).c2w.shape == (3, 4, 4)
    with pytest.raises(jaxtyping.TypeCheckError):
        orbit_cameras(torch.zeros(3), torch.zeros(2), 2.0, 40.0)


def test_every_module_is_hooked():
    for module in pkgutil.walk_packages(recdreamer.__path__, "recdreamer."):
        if module.name != "recdreamer.__main__":
            loader = importlib.import_module(module.name).__spec__.loader
            assert "jaxtyping" in type(loader).__module__, module.name
