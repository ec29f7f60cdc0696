"""Files on their way: whole or not at all, and nothing that a stranger may not send."""

import io
import os
import zipfile

import pytest

from recdreamer.cluster import parcel
from recdreamer.shared.protocol import RequestError


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return target.getvalue()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "job"
    (root / "checkpoints" / "shape-1").mkdir(parents=True)
    (root / "checkpoints" / "shape-1" / "meta.json").write_text("{}")
    (root / "job.json").write_text("{}")
    (root / "checkpoints" / ".new-2").mkdir()
    (root / "checkpoints" / ".new-2" / "part").write_text("x")
    return root


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_is_packed_comes_out_and_what_is_unfinished_stays(root, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    parcel.unpack(parcel.pack((root, ["job.json", "checkpoints", "missing"], "there")), new)
    assert files_in(new) == {"there/job.json", "there/checkpoints/shape-1/meta.json"}


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_link_is_not_packed(root, tmp_path, kind):
    path = root / "templates"
    path.symlink_to(tmp_path / "elsewhere") if kind == "link" else os.mkfifo(path)
    if kind == "link":
        (tmp_path / "elsewhere").write_text("secret")
    with pytest.raises(RequestError):
        parcel.pack((root, ["templates"], ""))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no parcel",
        zipped(("../out", b"x")),
        zipped(("/out", b"x")),
        zipped(("a//../../out", b"x")),
        zipped(("C:/out", b"x")),
        zipped(("a/./b", b"x")),
        zipped(("folder/", b"")),
        zipped(("bomb", b"0" * 10**6), method=zipfile.ZIP_DEFLATED),
        zipped(("a", b"x"), ("a/b", b"x")),
    ],
    ids=[
        "empty",
        "text",
        "up",
        "absolute",
        "up later",
        "drive",
        "odd",
        "folder",
        "deflated",
        "file as folder",
    ],
)
def test_a_strange_parcel_is_refused(tmp_path, data):
    (new := tmp_path / "in" / "new").mkdir(parents=True)
    with pytest.raises((RequestError, OSError)):
        parcel.unpack(data, new)
    assert not (tmp_path / "out").exists() and not (tmp_path / "in" / "out").exists()


def test_every_truncation_and_every_changed_byte_of_content_is_seen(tmp_path):
    data = zipped(("result/x", b"0123456789"))
    start = data.index(b"0123456789")
    damaged = [data[:length] for length in range(0, len(data), 7)]
    damaged += [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(start, start + 10)]
    for number, one in enumerate(damaged):
        (root := tmp_path / str(number) / "result").mkdir(parents=True)
        (root / "x").write_text("before")
        with pytest.raises(RequestError):
            parcel.place(one, root.parent, "result")
        assert (root / "x").read_text() == "before" and files_in(root.parent) == {"result/x"}


def test_a_unit_replaces_the_earlier_one_and_nothing_else(root):
    parcel.place(zipped(("checkpoints/shape-1/tensors", b"new")), root, "checkpoints/shape-1")
    assert files_in(root / "checkpoints" / "shape-1") == {"tensors"}
    parcel.place(zipped(("previews/a.png", b"png")), root, "previews/a.png")
    assert (root / "previews" / "a.png").read_bytes() == b"png"
    with pytest.raises(RequestError):
        parcel.place(zipped(("previews/a.png", b"2"), ("job.json", b"evil")), root, "previews/a.png")
    assert (root / "job.json").read_text() == "{}" and (root / "previews" / "a.png").read_bytes() == b"png"


def test_a_unit_does_not_go_through_a_link(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "previews").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError):
        parcel.place(zipped(("previews/a.png", b"png")), root, "previews/a.png")
    assert files_in(tmp_path / "elsewhere") == set()


def test_a_folder_that_was_deleted_stays_deleted(tmp_path):
    with pytest.raises(OSError):
        parcel.place(zipped(("result/x", b"1")), tmp_path / "gone", "result")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("scheme", ["file://{}", "memory://c22{}"])
def test_a_storage_gives_back_what_it_was_given_once(tmp_path, scheme):
    storage = scheme.format(tmp_path / "share")
    note = parcel.put(storage, "job-1/there.parcel", b"data")
    assert parcel.take(storage, note) == b"data"
    with pytest.raises(RequestError, match="cannot be read"):
        parcel.take(storage, note)


def test_a_storage_that_has_something_else_is_not_believed(tmp_path):
    storage = f"file://{tmp_path}"
    note = parcel.put(storage, "job-1/there.parcel", b"data")
    (tmp_path / "job-1" / "there.parcel").write_bytes(b"evil")
    with pytest.raises(RequestError, match="not whole"):
        parcel.take(storage, note)


def test_a_storage_is_named_without_its_password():
    with pytest.raises(RequestError) as caught:
        parcel.put("nosuch://user:secret@host/share", "a", b"")
    assert "secret" not in str(caught.value) and "nosuch://host/share" in caught.value.message


def test_what_a_dead_node_left_in_a_storage_is_removed(tmp_path):
    parcel.put(f"file://{tmp_path}", "job-1/there.parcel", b"data")
    parcel.sweep(f"file://{tmp_path}", "job-1")
    parcel.sweep(f"file://{tmp_path}", "job-1")
    assert files_in(tmp_path) == set()
