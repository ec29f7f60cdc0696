"""A job as a shell command makes the same request."""

from __future__ import annotations

import shlex
from dataclasses import asdict

import pytest
from recdreamer_extension.addon.jobs.command_line import shell_command
from recdreamer_extension.backend.recdreamer.shared.protocol import JobRequest

from recdreamer.cli import main as cli


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "a 'red' \"bear\" $HOME; ü", "seed": 7, "method": "sds", "quality": "quick"},
        {"stages": ("shape",), "device": "cpu", "height_m": 0.5, "pose_mode": "marginal"},
        {"overrides": {"optimize.num_steps": 40, "extractor": "a b", "mesh.target_faces": 500}},
    ],
)
def test_the_command_makes_the_same_request(fields, tmp_path, monkeypatch):
    request = JobRequest(**{"prompt": "a red bear"} | fields)
    words = shlex.split(shell_command(request, str(tmp_path), str(tmp_path / "out")))
    made = []

    def prepare(command):
        made.append(cli.prepare_job(command))
        return 0

    monkeypatch.setattr(cli, "_run", prepare)
    with pytest.raises(SystemExit) as end:
        cli.main(words[1:])
    assert not end.value.code and asdict(made[0]) == asdict(request)
