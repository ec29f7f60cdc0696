"""Processes that share views over NCCL, one for each GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ..processes.losing import check_the_loss_of_a_process

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def test_a_killed_process_ends_the_job_which_resumes_on_one_gpu(tmp_path: Path) -> None:
    check_the_loss_of_a_process(tmp_path / "job", "cuda", 3000)
