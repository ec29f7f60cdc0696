"""A stage takes up a checkpoint of its own job, and refuses another's in one sentence."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recdreamer.job.checkpoint import CheckpointStore
from recdreamer.presets import resolve
from recdreamer.report import JobError
from recdreamer.shared.protocol import JobRequest
from recdreamer.stages.run import run_steps

CPU = torch.device("cpu")


class Counter:
    """A part of a stage: the number of its steps, as a tensor of three."""

    def __init__(self) -> None:
        self.count = torch.zeros(3)

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self.count}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.count.copy_(tensors["count"])


def steps(store: CheckpointStore) -> tuple[Counter, float]:
    counter, config = Counter(), replace(resolve(JobRequest("a bear")).step("shape"), num_steps=4)
    seconds = run_steps(
        "shape", store, config, CPU, [counter], lambda step: counter.count.add_(1), lambda step: None
    )
    return counter, seconds


def test_a_checkpoint_of_the_job_is_taken_up(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save("shape", 3, {"count": torch.full((3,), 10.0)}, {"seconds": 100})
    counter, seconds = steps(store)
    assert counter.count.tolist() == [11.0] * 3 and seconds >= 100


@pytest.mark.parametrize(
    ("tensors", "meta"),
    [
        ({"other": torch.zeros(3)}, {"seconds": 1.0}),
        ({"count": torch.zeros(4)}, {"seconds": 1.0}),
        ({"count": torch.zeros(3)}, {}),
        ({"count": torch.zeros(3)}, {"seconds": "long"}),
        ({"count": torch.zeros(3)}, {"seconds": [1]}),
    ],
)
def test_a_checkpoint_of_another_job_is_one_sentence(tensors, meta, tmp_path):
    """Whole by its checksum, so it is no damage."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save("shape", 3, tensors, meta)
    with pytest.raises(JobError, match="The checkpoint of step 3 of shape is not of this job") as caught:
        steps(store)
    assert caught.value.kind == "checkpoint" and "\n" not in caught.value.message
