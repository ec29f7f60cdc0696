"""Reading and writing where a stranger may have been: every file is read within bounds, or refused in one sentence."""

import io
import os
import stat
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from recdreamer.shared import safe_files
from recdreamer.shared.safe_files import (
    FileMissing,
    RequestError,
    check_tree,
    confined,
    printable,
    read_bounded,
    read_npz,
    sweep_temporaries,
    write_atomically,
)


def refused(call, *arguments, **options) -> str:
    with pytest.raises(RequestError) as caught:
        call(*arguments, **options)
    told = f"{caught.value.message} {caught.value.hint}"
    assert "\n" not in told and len(told) < 400 and caught.value.hint and caught.value.message.endswith(".")
    return told


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def test_a_file_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    assert "has 5 bytes; at most 4" in refused(read_bounded, path, 4)


def test_anything_but_a_regular_file_is_refused_at_once(tmp_path):
    """A FIFO would wait for ever, a device never ends, a link leads elsewhere."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "dangling").symlink_to("nothing")
    os.mkfifo(tmp_path / "fifo")
    started = time.monotonic()
    for name in ("link", "zero", "dangling"):
        assert f"{name} is a link." in refused(read_bounded, tmp_path / name, 10)
    for name in ("folder", "fifo"):
        assert f"{name} is no file." in refused(read_bounded, tmp_path / name, 10)
    assert "is no file" in refused(read_bounded, Path("/dev/zero"), 10)
    assert time.monotonic() - started < 1
    with pytest.raises(FileMissing):
        read_bounded(tmp_path / "nothing", 10)
    for odd in ("\0", "a" * 300, "target/x", "\ud800"):
        refused(read_bounded, tmp_path / odd, 10)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../../x", "/etc/hostname", "//host/share/x", "\\\\host\\share\\x", "C:/x", "C:x",
     "a\\..\\..\\x", "\\x", "a\0b", "a" * 300, "in/x", "link", "\ud800\0"],
)  # fmt: skip
def test_a_path_that_leads_out_is_refused(name, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "in").symlink_to(tmp_path)
    (tmp_path / "job" / "link").symlink_to("file")
    refused(confined, tmp_path / "job", name)


def test_a_path_inside_is_taken(tmp_path):
    """Also through a link that its owner made of the folder itself."""
    (tmp_path / "real").mkdir()
    (tmp_path / "job").symlink_to("real")
    for name in ("front.png", "templates/front.png", "not/there/yet", "jöb with spaces.png", "a..b"):
        assert confined(tmp_path / "job", name) == tmp_path / "job" / name


def test_arrays_come_back_as_they_were(tmp_path):
    verts = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"verts": verts, "faces": np.asfortranarray(np.arange(12, dtype=">i4").reshape(4, 3)),
              "empty": np.zeros((0, 3)), "one": np.float64(2.5), "is": np.array([True])}  # fmt: skip
    (tmp_path / "a.npz").write_bytes(npz(**arrays, other=verts))
    for source in (tmp_path / "a.npz", npz(**arrays, other=verts)):
        found = read_npz(source, arrays)
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    found["verts"][0] = 7  # They can be written to.


def entry_of(header: bytes, body: bytes = b"", version: int = 1) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "verts.npy",
            b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2, "little") + header + body,
        )
    return stream.getvalue()


def header(shape: str = "(2,)", kind: str = "'<f4'", order: str = "False") -> bytes:
    return f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}}}\n".encode()


DAMAGED = {
    "nothing": b"",
    "no archive": b"PK\x03\x04 but no more",
    "cut": npz(verts=np.zeros(100))[:150],
    "objects": entry_of(header(kind="'|O'"), b"12345678" * 2),
    "a bomb by its header": entry_of(header("(10**9,)")),
    "huge": entry_of(header("(1000000000000,)"), b"12345678"),
    "negative": entry_of(header("(-2,)"), b"12345678"),
    "no numbers": entry_of(header("('a', 'b')"), b"12345678"),
    "true": entry_of(header("(True, 2)"), b"12345678"),
    "text": entry_of(header(kind="'<U1'"), b"12345678"),
    "structured": entry_of(header(kind="[('a', '<f4')]"), b"12345678"),
    "deep": entry_of(header("(" * 5000 + ")" * 5000), b"12345678"),
    "unfinished": entry_of(b"{'descr': '<f4', 'shape': (2", b"12345678"),
    "no python": entry_of(b"\xff\x00{{{'''", b"12345678"),
    "a type that ends the process": entry_of(header(kind="'M8[7Y/0]'"), b"12345678"),
    "a call": entry_of(header("__import__('os').system('true')"), b"12345678"),
    "too short": entry_of(header(), b"1234"),
    "too long": entry_of(header(), b"123456789"),
    "version 9": entry_of(header(), b"12345678", version=9),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_arrays_are_refused_in_one_sentence(kind):
    assert "no readable .npz" in refused(read_npz, DAMAGED[kind], ["verts"])
    assert "ValueError" not in refused(read_npz, DAMAGED[kind], ["verts"])


@pytest.mark.parametrize("flag", ["encrypted", "method", "sum", "data"])
def test_an_archive_that_zipfile_does_not_know_is_refused(flag):
    data = bytearray(npz(verts=np.arange(1000.0)))
    local, central = data.index(b"PK\x03\x04"), data.index(b"PK\x01\x02")
    match flag:
        case "encrypted":
            data[local + 6] |= 1
            data[central + 8] |= 1
        case "method":
            data[local + 8] = data[central + 10] = 99
        case "sum":
            data[central + 16] ^= 1
        case "data":
            data[local + 200] ^= 255
    refused(read_npz, bytes(data), ["verts"])


def test_a_bomb_is_refused_before_it_is_inflated():
    import tracemalloc

    bomb = npz(verts=np.zeros(2**26, np.uint8))  # 64 MiB in 64 KiB.
    lying = bytearray(bomb)
    central = lying.index(b"PK\x01\x02")
    lying[central + 24 : central + 28] = (208).to_bytes(4, "little")
    tracemalloc.start()
    assert "more than 1,048,576 bytes" in refused(read_npz, bomb, ["verts"], limit_bytes=2**20)
    refused(read_npz, bytes(lying), ["verts"], limit_bytes=2**20)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
    assert len(read_npz(bomb, ["verts"])["verts"]) == 2**26  # Negative control.


def test_an_atomic_write_replaces_or_leaves_everything(tmp_path):
    path = tmp_path / "job.json"
    write_atomically(path, "ä")
    write_atomically(path, "ö")
    assert path.read_text(encoding="utf-8") == "ö"
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "taken", "x")
    assert caught.value.filename == str(tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job.json", "taken"]


def test_a_deleted_folder_does_not_come_back(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "deleted" / "state.json", "x")
    assert not (tmp_path / "deleted").exists()


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "victim").write_text("safe")
    (tmp_path / "state.json").symlink_to("victim")
    write_atomically(tmp_path / "state.json", "new")
    assert (tmp_path / "victim").read_text() == "safe" and (tmp_path / "state.json").read_text() == "new"
    assert not (tmp_path / "state.json").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_has_the_permissions_of_the_umask(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_what_killed_writers_left_is_swept(tmp_path):
    """The names of this version and of earlier ones; what others hide is left alone."""
    swept = (".config.json.0123456789ab", ".state.json.x_1y2z3w", ".shape-000001.png.0123456789ab",
             ".shape-000001.jpg.0123456789ab")  # fmt: skip
    for name in (*swept, ".profile", ".notes.12345678", "config.json", ".stop.0123456789ab"):
        (tmp_path / name).write_text("")
    sweep_temporaries(tmp_path, tmp_path / "nothing")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".profile", ".notes.12345678", "config.json", ".stop.0123456789ab"}


def test_the_temporary_name_of_a_writer_is_one_that_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_files, "_replace", lambda source, target: None)
    for name in ("config.json", "preview.png", "preview.jpg", f"{'a' * 100}.json"):
        write_atomically(tmp_path / name, "x")
    assert len(list(tmp_path.iterdir())) == 4
    sweep_temporaries(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["link", "link to a folder", "fifo"])
@pytest.mark.parametrize("place", ["job.json", "result", "checkpoints/earlier", "checkpoints/a/b.png"])
def test_a_tree_with_something_else_than_files_is_refused(kind, place, tmp_path):
    names = ("job.json", "result", "checkpoints")
    (tmp_path / "checkpoints" / "a").mkdir(parents=True)
    (tmp_path / "checkpoints" / "a" / "meta.json").write_text("")
    (tmp_path / "unused").symlink_to("/dev/zero")
    check_tree(tmp_path, names)
    if kind == "fifo":
        os.mkfifo(tmp_path / place)
    else:
        (tmp_path / place).symlink_to(tmp_path if kind == "link to a folder" else "/etc/hostname")
    assert f"{place} is {'no file' if kind == 'fifo' else 'a link'}." in refused(check_tree, tmp_path, names)


def test_a_name_can_always_be_printed():
    assert printable("left \udce9\n.png") == "left \\udce9\\n.png" and printable("jöb 熊") == "jöb 熊"
