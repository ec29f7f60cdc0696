"""One file over a network that fails in every way: what arrives is right to the last byte, or it is not there."""

from __future__ import annotations

import errno
import random
import time
from pathlib import Path

import pytest

from recdreamer.catalog.download import bytes_present, fetch, part_of
from recdreamer.catalog.entries import Source
from recdreamer.catalog.hub import Hub, Listing
from recdreamer.report import Cancelled, JobError

from .local_hub import Fault, LocalHub

REPO, COMMIT = "someone/some-model", "0123456789abcdef0123456789abcdef01234567"
CONTENT = random.Random(0).randbytes(300_000)
NO_WAITS = (0.0, 0.0)


@pytest.fixture
def there(hub: LocalHub) -> Hub:
    hub.add(REPO, COMMIT, {"config.json": b'{"a": 1}', "unet/weights.safetensors": CONTENT})
    return Hub(hub.endpoint, timeout_s=0.5)


@pytest.fixture
def listing(there: Hub) -> Listing:
    return there.list_files(Source(REPO, COMMIT), ["unet/weights.safetensors", "config.json"])


def fetch_weights(
    there: Hub, listing: Listing, folder: Path, at=lambda there: None, waits_s=NO_WAITS
) -> Path:
    target = folder / "unet" / "weights.safetensors"
    fetch(there, listing, listing.files[0], target, at, waits_s)
    return target


def test_the_dry_run_has_sizes_and_hashes(listing: Listing) -> None:
    assert [(file.path, file.size) for file in listing.files] == [
        ("unet/weights.safetensors", 300_000),
        ("config.json", 8),
    ]
    assert listing.commit == COMMIT and listing.size == 300_008
    assert len(listing.files[0].sha256) == 64 and not listing.files[1].sha256
    assert len(listing.files[1].git_sha1) == 40


def test_a_branch_is_resolved_to_its_commit(there: Hub) -> None:
    assert there.list_files(Source(REPO, "main"), ["config.json"]).commit == COMMIT


def test_a_file_arrives_with_every_byte(there: Hub, listing: Listing, tmp_path: Path) -> None:
    seen: list[int] = []
    target = fetch_weights(there, listing, tmp_path, seen.append)
    assert target.read_bytes() == CONTENT
    assert seen == sorted(seen) and seen[-1] == len(CONTENT)
    assert list(tmp_path.rglob("*.part")) == []


def test_a_complete_file_is_not_fetched_again(
    hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    fetch_weights(there, listing, tmp_path)
    before = hub.sent
    fetch_weights(there, listing, tmp_path)
    assert hub.sent == before


def test_small_files_are_checked_by_gits_hash(
    hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.append(Fault("wrong"))
    with pytest.raises(JobError, match="wrong bytes"):
        fetch(there, listing, listing.files[1], tmp_path / "config.json", lambda _: None, NO_WAITS)
    fetch(there, listing, listing.files[1], tmp_path / "config.json", lambda _: None, NO_WAITS)
    assert (tmp_path / "config.json").read_bytes() == b'{"a": 1}'


@pytest.mark.parametrize("seed", range(8))
def test_cut_at_random_bytes_it_goes_on_where_it_stopped(
    seed: int, hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    hub.faults.extend(Fault("cut", at=chance.randrange(100_000)) for _ in range(5))
    target = fetch_weights(there, listing, tmp_path)
    assert target.read_bytes() == CONTENT
    # Bytes in flight at a cut may be lost, but none is fetched that had arrived.
    assert hub.sent <= len(CONTENT) + 5 * 100_000
    ranges = [headers["Range"] for _, path, headers in hub.requests if "Range" in headers]
    assert ranges


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ([Fault("cut", at=1000)] + [Fault("cut", at=0)] * 9, "network"),
        ([Fault("stall", at=70_000, seconds=1)] + [Fault("slow", seconds=1)] * 9, "timeout"),
        ([Fault("status", 404)], "not_found"),
        ([Fault("status", 403)], "access"),
        ([Fault("status", 503)] * 9, "busy"),
        ([Fault("status", 429)] * 9, "busy"),
        ([Fault("wrong")], "checksum"),
        ([Fault("cut", at=100_000), Fault("wrong"), Fault("wrong")], "checksum"),
    ],
    ids=["cut", "stall", "404", "403", "503", "429", "wrong", "wrong after a cut"],
)
def test_after_each_failure_the_next_attempt_ends_well(
    faults: list[Fault], kind: str, hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.extend(faults)
    with pytest.raises(JobError) as caught:
        fetch_weights(there, listing, tmp_path)
    assert caught.value.kind == kind
    assert caught.value.message and caught.value.hint and "\n" not in caught.value.message
    assert not (tmp_path / "unet" / "weights.safetensors").exists()
    hub.faults.clear()
    assert fetch_weights(there, listing, tmp_path).read_bytes() == CONTENT
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("cut", at=50_000), Fault("no_range")],
        [Fault("cut", at=50_000), Fault("no_range"), Fault("cut", at=10_000)],
        [Fault("slow", seconds=0.2)],
        [Fault("trickle", at=50_000, seconds=0.01)],
        [Fault("status", 503), Fault("status", 429)],
    ],
    ids=["no ranges", "no ranges, cut", "slow", "trickle", "passing"],
)
def test_what_passes_is_waited_for(
    faults: list[Fault], hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.faults.extend(faults)
    assert fetch_weights(there, listing, tmp_path).read_bytes() == CONTENT


def test_redirects_to_another_host_are_followed_and_resumed(
    hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    hub.redirects = True
    hub.faults.append(Fault("cut", at=120_000))
    assert fetch_weights(there, listing, tmp_path).read_bytes() == CONTENT
    assert any(path.startswith("/cdn/") for _, path, _ in hub.requests)


def test_a_token_is_not_sent_to_the_other_host(
    hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.redirects = True
    fetch_weights(there, listing, tmp_path)
    by_origin = {
        path.startswith("/cdn/"): headers.get("authorization") or headers.get("Authorization")
        for _, path, headers in hub.requests
        if "/resolve/" in path
    }
    assert by_origin == {False: "Bearer hf_secret", True: None}


def test_wrong_bytes_of_an_earlier_attempt_are_replaced_at_once(
    there: Hub, listing: Listing, tmp_path: Path
) -> None:
    """As a crash of the system leaves them: the length is written, the bytes are not."""
    part = part_of(tmp_path / "unet" / "weights.safetensors", listing.files[0])
    part.parent.mkdir()
    part.write_bytes(bytes(200_000))
    assert fetch_weights(there, listing, tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_in_its_place_is_replaced(there: Hub, listing: Listing, tmp_path: Path) -> None:
    target = fetch_weights(there, listing, tmp_path)
    target.write_bytes(bytes(len(CONTENT)))
    assert fetch_weights(there, listing, tmp_path).read_bytes() == CONTENT


def test_bytes_of_another_version_are_not_continued(
    hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    other = "f" * 40
    hub.add(REPO, other, {"unet/weights.safetensors": CONTENT[::-1]})
    hub.faults.append(Fault("cut", at=100_000))
    hub.faults.extend([Fault("status", 404)])
    with pytest.raises(JobError):
        fetch_weights(there, listing, tmp_path)
    newer = there.list_files(Source(REPO, other), ["unet/weights.safetensors"])
    hub.requests.clear()
    assert fetch_weights(there, newer, tmp_path).read_bytes() == CONTENT[::-1]
    assert not any("Range" in headers for _, _, headers in hub.requests)


def test_cancelled_it_goes_on_where_it_stopped(
    hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path
) -> None:
    def cancel(there: int) -> None:
        if there > 100_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch_weights(there, listing, tmp_path, cancel)
    kept = bytes_present(tmp_path / "unet" / "weights.safetensors", listing.files[0])
    assert 100_000 < kept <= len(CONTENT)
    assert fetch_weights(there, listing, tmp_path).read_bytes() == CONTENT
    asked = [headers["Range"] for _, _, headers in hub.requests if "Range" in headers]
    assert asked == [f"bytes={kept}-"] or kept == len(CONTENT)


def test_a_wait_can_be_cancelled(hub: LocalHub, there: Hub, listing: Listing, tmp_path: Path) -> None:
    hub.faults.extend([Fault("status", 503)] * 9)
    began = time.monotonic()

    def cancel(there: int) -> None:
        if time.monotonic() - began > 0.2:
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch_weights(there, listing, tmp_path, cancel, (60.0,))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    code: int, there: Hub, listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file on a disk that has room for 100,000 bytes."""

        def __init__(self, stream) -> None:
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None:
            self.stream.close()

        def seek(self, place: int) -> int:
            return self.stream.seek(place)

        def truncate(self) -> int:
            return self.stream.truncate()

        def write(self, block: bytes) -> int:
            room = 100_000 - self.stream.tell()
            self.stream.write(block[:room])
            if room < len(block):
                raise OSError(code, "No space left on device")
            return len(block)

    real = Path.open

    def limited(self: Path, mode: str = "r", *arguments, **options):
        stream = real(self, mode, *arguments, **options)
        return Full(stream) if self.suffix == ".part" and mode != "rb" else stream

    monkeypatch.setattr(Path, "open", limited)
    with pytest.raises(JobError, match="disk is full") as caught:
        fetch_weights(there, listing, tmp_path)
    assert caught.value.kind == "disk_full"
    monkeypatch.undo()
    assert bytes_present(tmp_path / "unet" / "weights.safetensors", listing.files[0]) == 100_000
    assert fetch_weights(there, listing, tmp_path).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_one_sentence(
    there: Hub, listing: Listing, tmp_path: Path
) -> None:
    (tmp_path / "unet").write_text("a file where a folder should be")
    with pytest.raises(JobError, match="cannot be written") as caught:
        fetch_weights(there, listing, tmp_path)
    assert caught.value.kind == "not_writable"


@pytest.mark.parametrize(
    ("source", "fault", "kind"),
    [
        (Source("someone/gone", COMMIT), None, "not_found"),
        (Source(REPO, "e" * 40), None, "not_found"),
        (Source(REPO, COMMIT), Fault("status", 401), "access"),
        (Source(REPO, COMMIT), Fault("status", 503), "busy"),
        (Source(REPO, COMMIT), Fault("cut"), "network"),
        (Source(REPO, COMMIT), Fault("slow", seconds=1), "timeout"),
        (Source(REPO, COMMIT), Fault("page"), "portal"),
    ],
)
def test_a_list_that_does_not_come_is_one_sentence(
    source: Source, fault: Fault | None, kind: str, hub: LocalHub, there: Hub
) -> None:
    if fault:
        hub.listing_faults.append(fault)
    with pytest.raises(JobError) as caught:
        there.list_files(source, ["config.json"])
    assert caught.value.kind == kind
    assert "127.0.0.1" in caught.value.message and caught.value.hint


def test_a_hub_that_is_not_there_is_one_sentence() -> None:
    with LocalHub() as gone:
        endpoint = gone.endpoint
    with pytest.raises(JobError, match="cannot be reached") as caught:
        Hub(endpoint, timeout_s=0.5).list_files(Source(REPO, COMMIT), ["config.json"])
    assert caught.value.kind == "network"


def test_a_missing_file_is_named(there: Hub) -> None:
    with pytest.raises(JobError, match=r"has no unet/other\.safetensors"):
        there.list_files(Source(REPO, COMMIT), ["unet/other.safetensors"])
