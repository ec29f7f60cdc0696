"""What failed installations printed, recorded, and what the artist reads instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from recdreamer_extension.addon.setup.remedies import REMEDIES, explain

RECORDED = Path(__file__).parent / "failed_installs"
KINDS = {
    "uv-disk": "disk full", "pip-disk": "disk full",
    "uv-proxy": "proxy", "pip-proxy": "proxy",
    "uv-certificate": "certificate", "pip-cert": "certificate",
    "uv-python-dns": "name", "pip-dns": "name",
    "uv-hash": "hash", "uv-offline": "missing wheel", "pip-offline": "missing wheel",
    "uv-refused": "connection", "uv-cut": "connection",
    "uv-403": "refused", "uv-404": "gone", "uv-503": "server",
    "uv-permission": "permission", "uv-long": "path", "uv-ro": "read-only",
}  # fmt: skip
DOCUMENTED = {
    "error: Failed to download `torch==2.13.0`\n  cause: failed to write to file `C:\\data\\torch_cpu.dll`: "
    "There is not enough space on the disk. (os error 112)": "disk full",
    "error: Failed to install: numpy-2.5.5.whl\n  cause: failed to hardlink file\n  cause: Operation did not complete "
    "successfully because the file contains a virus or potentially unwanted software. (os error 225)": "antivirus",
    "error: failed to remove file `C:\\data\\backend\\Scripts\\python.exe`: The process cannot access the file because "
    "it is being used by another process. (os error 32)": "antivirus",
    "error: failed to create directory\n  cause: The filename or extension is too long. (os error 206)": "path",
    "error: Failed to create virtual environment\n  cause: Access is denied. (os error 5)": "permission",
    "error: Failed to fetch: https://pypi.org/simple/idna/\n  cause: dns error\n"
    "  cause: No such host is known. (os error 11001)": "name",
    "error: Failed to fetch: https://pypi.org/simple/idna/\n  cause: invalid peer certificate: certificate expired: "
    "verification time 1388534400 (UNIX), but certificate is not valid after 1760000000": "clock",
    "error: Failed to fetch: https://pypi.org/simple/idna/\n  cause: tunnel error: proxy authorization required\n"
    "  cause: 407 Proxy Authentication Required": "proxy",
    "error: Failed to download `scipy`\n  cause: Failed to download distribution due to network timeout. Try increasing "
    "UV_HTTP_TIMEOUT (current value: 60s).": "connection",
    "memory allocation of 1073741824 bytes failed": "memory",
}


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text(encoding="utf-8")


def test_every_recording_is_tried():
    assert {path.stem for path in RECORDED.glob("*.txt")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_recorded_failures(name):
    failure = explain(recorded(name), "Downloading")
    assert failure.kind == KINDS[name]
    assert failure.sentence.endswith(".") and failure.cure.endswith(".")
    assert "{" not in failure.sentence
    last = recorded(name).strip().splitlines()[-1]
    assert last not in failure.sentence


@pytest.mark.parametrize("output", DOCUMENTED, ids=DOCUMENTED.values())
def test_failures_of_other_systems(output):
    assert explain(output, "Downloading").kind == DOCUMENTED[output]


def test_every_row_of_the_table_is_reached():
    assert {remedy.kind for remedy in REMEDIES} == {*KINDS.values(), *DOCUMENTED.values()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uv-python-dns", "The name github.com could not be found"),
        ("uv-certificate", "The secure connection to pypi.org was refused"),
        ("uv-offline", "There is no fitting wheel of idna."),
        ("pip-offline", "There is no fitting wheel of uv."),
    ],
)
def test_the_sentence_names_server_or_package(name, words):
    assert words in explain(recorded(name), "Downloading").sentence


def test_a_retry_that_helped_is_not_the_error():
    output = "WARNING: Retrying (Retry(total=4)) after connection broken by 'ProxyError(...)'\n"
    assert explain(f"{output}ERROR: [Errno 28] No space left on device", "Downloading").kind == "disk full"
    assert explain(output, "Downloading").kind == "proxy"


def test_another_failure_quotes_its_first_error_and_names_the_log():
    failure = explain("Resolved 3 packages\nerror: Something new.\nhint: Good-bye\n", "Installing")
    assert (failure.kind, failure.sentence) == ("", "Installing failed: Something new.")
    assert "log" in failure.cure
    assert explain("", "Installing").sentence == "Installing failed."


def test_passwords_in_addresses_are_not_shown():
    failure = explain(
        "error: Failed to fetch: https://me:secret@pypi.org/simple/\n  cause: dns error", "Downloading"
    )
    assert "secret" not in failure.sentence and "pypi.org" in failure.sentence
