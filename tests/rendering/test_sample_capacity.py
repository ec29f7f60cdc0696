"""The size of the sample buffers follows what steps want."""

import torch

from recdreamer.rendering.sample_capacity import MARGIN, START_SAMPLES, SampleCapacity, rounded_up

CPU = torch.device("cpu")


def after(capacity: SampleCapacity, *wanted: int) -> int:
    for count in wanted:
        capacity.note(torch.tensor(count, dtype=torch.int32))
        capacity.send()
    capacity.choose()
    return capacity.size


def test_there_is_room_for_the_most_of_the_latest_steps():
    capacity = SampleCapacity(1000, CPU)
    assert after(capacity, 1000, 300_000, 2000) == rounded_up(MARGIN * 300_000) >= MARGIN * 300_000
    # What was before the latest choice is forgotten.
    assert after(capacity, 50_000) == rounded_up(MARGIN * 50_000)


def test_small_changes_change_nothing():
    capacity = SampleCapacity(1000, CPU)
    size = after(capacity, 200_000)
    assert [after(capacity, count) for count in (190_000, 201_000, 150_000)] == 3 * [size]
    assert after(capacity, 100_000) < size


def test_steps_without_a_sample_leave_it_alone():
    capacity = SampleCapacity(1000, CPU)
    size = after(capacity, 30_000)
    assert after(capacity) == after(capacity, 0) == size


def test_an_overflow_is_said_once_and_mended():
    said = []
    capacity = SampleCapacity(10, CPU, said.append)
    assert after(capacity, capacity.size) > START_SAMPLES * 10 and not said
    too_many = capacity.size + 1
    assert after(capacity, too_many) > too_many
    assert len(said) == 1 and str(too_many) in said[0]
    after(capacity, 10 * too_many)
    assert len(said) == 1


def test_sizes_are_few_and_suit_matrix_products():
    sizes = {rounded_up(count) for count in range(0, 5_000_000, 1003)}
    assert len(sizes) < 60 and all(size % 256 == 0 for size in sizes)
    assert all(count <= rounded_up(count) <= max(1.3 * count, 1024) for count in range(1, 5_000_000, 1003))


def test_a_checkpoint_holds_size_and_count():
    one, other = SampleCapacity(1000, CPU), SampleCapacity(1000, CPU)
    after(one, 300_000)
    one.note(torch.tensor(100_000, dtype=torch.int32))
    other.load(one.tensor())
    assert other.size == one.size
    one.choose()
    other.choose()
    assert other.size == one.size == rounded_up(MARGIN * 100_000)


def test_a_limit_is_kept_without_a_word():
    said = []
    capacity = SampleCapacity(1000, CPU, said.append, per_ray=50)
    assert capacity.size == 50_000
    assert [after(capacity, count) for count in (400_000, 49_000, 50_001)] == 3 * [50_000] and not said
    assert after(capacity, 10_000) == rounded_up(MARGIN * 10_000)
    # Below the limit, too little room is told as ever.
    assert after(capacity, 40_000) == rounded_up(MARGIN * 40_000) and len(said) == 1


def test_a_checkpoint_of_a_larger_gpu_keeps_the_limit_of_this_one():
    large, small = SampleCapacity(1000, CPU), SampleCapacity(1000, CPU, per_ray=50)
    after(large, 300_000)
    small.load(large.tensor())
    assert small.size == 50_000
