"""What is asked of the Hugging Face Hub, or of a mirror of it (HF_ENDPOINT): lists of files, and their bytes.

The requests are those of huggingface_hub: its session, with proxies, certificates and token; its addresses; its errors.
The bytes of a file are read here and not by its `snapshot_download`, because that begins every interrupted file again
from its first byte and compares sizes but not hashes.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from recdreamer.catalog.entries import Source
from recdreamer.report import JobError

DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def hub_library() -> Any:
    """The library, imported late, because that takes a moment, and made to ask nobody but the hub.

    Else its first request would be one to the real Hub, whatever the endpoint, for a list of programs to be recognized.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import huggingface_hub
    from huggingface_hub import constants

    # Not only in the environment, which the library reads once: another library may have imported it before.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it. One of the hashes is known."""

    path: str
    size: int
    sha256: str = ""
    """Of large files."""
    git_sha1: str = ""
    """Git's hash of the content."""

    @property
    def hash(self) -> str:
        return self.sha256 or self.git_sha1


@dataclass(frozen=True)
class Listing:
    """Files of a repository at one commit."""

    repo: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


class Hub:
    """A hub and its timeouts. Every method raises JobError, in the words of `trouble`."""

    def __init__(self, endpoint: str | None = None, timeout_s: float | None = None) -> None:
        """By default as the environment says: HF_ENDPOINT, and HF_HUB_DOWNLOAD_TIMEOUT without an answer."""
        constants = hub_library().constants
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.timeout_s = timeout_s or float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self.host = urlsplit(self.endpoint).netloc

    def list_files(self, source: Source, paths: list[str]) -> Listing:
        """Size and hash of files at a revision, which is resolved to a commit. This is the dry run of a download."""
        from huggingface_hub.utils import get_session

        library = hub_library()
        # The library gives these requests no timeout.
        get_session().timeout = self.timeout_s
        try:
            api = library.HfApi(endpoint=self.endpoint)
            commit = source.revision
            if len(commit) != 40:
                commit = str(api.model_info(source.repo, revision=commit, timeout=self.timeout_s).sha)
            listed = {
                file.path: RemoteFile(
                    file.path, int(file.size), file.lfs.sha256 if file.lfs else "", file.blob_id
                )
                for file in api.get_paths_info(source.repo, paths, revision=commit)
                if hasattr(file, "blob_id")
            }
        except Exception as error:
            raise trouble(error, self.host, source.repo) from error
        if missing := [path for path in paths if path not in listed]:
            raise JobError(
                "not_found",
                f"{source.repo} on {self.host} has no {missing[0]}.",
                "Update RecDreamer, or choose another model.",
            )
        return Listing(source.repo, commit, tuple(listed[path] for path in paths))

    @contextmanager
    def stream(self, listing: Listing, file: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Where the answer begins, which is `start` or 0, and its bytes as they come."""
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hub_library().hf_hub_url(
            listing.repo, file.path, revision=listing.commit, endpoint=self.endpoint
        )
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with ExitStack() as stack:
            try:
                response = stack.enter_context(
                    get_session().stream("GET", url, headers=headers, timeout=self.timeout_s)
                )
                hf_raise_for_status(response)
            except Exception as error:
                raise trouble(error, self.host, listing.repo) from error
            begins = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            yield (
                (start if response.status_code == 206 and begins else 0),
                self._blocks(response, listing.repo),
            )

    def _blocks(self, response: Any, repo: str) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()
        except Exception as error:
            raise trouble(error, self.host, repo) from error


PASSING = ("network", "timeout", "busy")
"""Kinds of errors that may pass by waiting."""


def trouble(error: Exception, host: str, repo: str = "") -> JobError:
    """The error in one sentence with its remedy.

    Kinds: offline, certificate, proxy, name, network, timeout, busy, access, not_found, disk_full, not_writable, portal.
    """
    import httpx2
    from huggingface_hub import errors

    again = "Press the button, or repeat the command, to go on where it stopped."
    chain = list(_causes(error))
    status = next((one.response.status_code for one in chain if isinstance(one, errors.HfHubHTTPError)), 0)
    if isinstance(error, JobError):
        return error
    if any(isinstance(one, errors.OfflineModeIsEnabled) for one in chain):
        return JobError(
            "offline", "Downloads are switched off: HF_HUB_OFFLINE is set.", "Unset HF_HUB_OFFLINE first."
        )
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return JobError(
            "certificate",
            f"The certificate of {host} is not trusted: a program or a network in between reads the connection.",
            "Set SSL_CERT_FILE to the certificates of your network, or use another network.",
        )
    if any(isinstance(one, httpx2.ProxyError) for one in chain):
        return JobError(
            "proxy", f"The proxy does not let {host} through.", "Check HTTPS_PROXY, or your proxy settings."
        )
    if status in (401, 403):
        return JobError(
            "access",
            f"{host} refuses access to {repo} ({status}).",
            "Log in with `hf auth login`, accept the model's terms on its page, or choose another mirror (HF_ENDPOINT).",
        )
    if status == 404 or any(
        isinstance(one, errors.EntryNotFoundError | errors.RepositoryNotFoundError) for one in chain
    ):
        return JobError(
            "not_found",
            f"{host} has no {repo}, or not this revision of it.",
            "Update RecDreamer, or choose a mirror that has it (HF_ENDPOINT).",
        )
    if status == 429 or status >= 500:
        what = (
            "asks to wait, because too much was fetched"
            if status == 429
            else f"has a fault of its own ({status})"
        )
        return JobError("busy", f"{host} {what}.", f"Try again later. {again}")
    if status:
        return JobError(
            "not_found", f"{host} answers {status} for {repo}.", "Update RecDreamer, or try again later."
        )
    if any(isinstance(one, httpx2.TimeoutException) for one in chain):
        return JobError("timeout", f"{host} does not answer.", f"Check the connection. {again}")
    if any(isinstance(one, httpx2.ConnectError) for one in chain):
        if any(isinstance(one, socket.gaierror) for one in chain) or "getaddrinfo" in str(error):
            return JobError(
                "name", f"{host} cannot be found.", "Check the internet connection, then try again."
            )
        return JobError("network", f"{host} cannot be reached.", f"Check the connection. {again}")
    if any(isinstance(one, httpx2.TransportError) for one in chain):
        return JobError("network", f"The connection to {host} was cut.", again)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return JobError(
            "disk_full",
            f"The disk is full: {error.filename or 'a file'} could not be written.",
            f"Free some space. {again}",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return JobError(
            "not_writable",
            f"{error.filename or 'The folder of models'} cannot be written ({error.strerror}).",
            "Choose another folder for models, or change its permissions.",
        )
    return JobError(
        "portal",
        f"{host} does not answer like a hub of models ({type(error).__name__}).",
        "If your network has a login page, log in first; or check HF_ENDPOINT.",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
