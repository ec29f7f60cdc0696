"""What a job says of the memory that it took."""

import pytest
import torch

from recdreamer.device import gpu_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def test_memory_is_that_of_the_process_and_of_the_card():
    held = torch.zeros(2**28, dtype=torch.uint8, device="cuda")
    found = gpu_memory(held.device)
    assert held.numel() <= found["peak"] < found["total"]
    del held
    torch.cuda.empty_cache()
    assert gpu_memory(torch.device("cuda", 0))["peak"] >= 2**28, "the most that it has been"
