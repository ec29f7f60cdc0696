"""From what a failed installation printed to one sentence and its remedy: one table. No bpy here."""

from __future__ import annotations

import re
from dataclasses import dataclass

WEAK = ("missing wheel", "gone")
MAX_QUOTE = 200
"""Characters of a foreign message that a sentence quotes."""


class SetupError(Exception):
    """Something that cannot be set up. `sentence` says what is wrong, `cure` what to do."""

    def __init__(self, sentence: str, cure: str = "") -> None:
        super().__init__(f"{sentence} {cure}".strip())
        self.sentence = sentence
        self.cure = cure


@dataclass(frozen=True)
class Remedy:
    """One kind of failure."""

    kind: str
    pattern: str
    """Regular expression of a line that only this failure prints; `host` names the server, if it does."""
    sentence: str
    """What went wrong; `{host}` stands for the server."""
    cure: str


# In order: a line is of the first kind that it fits. Numbers are those of Windows and of Linux.
REMEDIES = (
    Remedy(
        "disk full",
        r"No space left on device|not enough space on the disk|Disk quota exceeded|os error (28|112|122)\b|Errno 28\b",
        "The disk is full.",
        "Free some space, or choose a data folder on another disk. What was downloaded is kept.",
    ),
    Remedy(
        "clock",
        r"certificate (has )?expired|CertExpired|NotValidYet|certificate is not yet valid|Expired\b.*certificate",
        "The certificate of {host} is not valid at the time that this computer's clock shows.",
        "Set date and time of the computer, and try again.",
    ),
    Remedy(
        "certificate",
        r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED|certificate verify failed|UnknownIssuer|SSLError"
        r"|self[- ]signed certificate|InvalidCertificate|TLSV1_ALERT",
        "The secure connection to {host} was refused: its certificate is not one that this computer trusts.",
        "A company network or a virus scanner that inspects connections often causes this. Set SSL_CERT_FILE to its "
        "certificate, or use another network, or install from a folder of wheels.",
    ),
    Remedy(
        "proxy",
        r"Proxy Authentication Required|ProxyError|Cannot connect to proxy|unsuccessful tunnel|tunnel error"
        r"|proxy connect|\b407\b|Tunnel connection failed|proxy.*(refused|failed|error)",
        "The proxy of this network did not let the download through.",
        "Check HTTPS_PROXY and the name and password in it, or use another network.",
    ),
    Remedy(
        "name",
        r"dns error|failed to lookup address|Name or service not known|name resolution|getaddrinfo failed"
        r"|nodename nor servname|No such host is known|NameResolutionError|No address associated",
        "The name {host} could not be found on this network.",
        "Check that the computer is online and that no firewall blocks this name, and try again.",
    ),
    Remedy(
        "refused",
        r"HTTP status client error \((401|403|451)|HTTP Error (401|403|451)|\b403 (Client Error|Forbidden)",
        "{host} refused the download.",
        "A firewall or a mirror may block it. Use another network, or install from a folder of wheels.",
    ),
    Remedy(
        "gone",
        r"HTTP status client error \((404|410)|HTTP Error (404|410)|\b404 Client Error"
        r"|was not found in the package registry",
        "A file is no longer at {host}.",
        "Update the extension, which brings a newer list of files.",
    ),
    Remedy(
        "server",
        r"HTTP status server error \(5\d\d|HTTP Error (429|5\d\d)|\b5\d\d Server Error|client error \(429",
        "{host} is out of order or too busy.",
        "Try again later. What was downloaded is kept.",
    ),
    Remedy(
        "hash",
        r"[Hh]ash mismatch|DO NOT MATCH THE HASHES",
        "A file that was downloaded is not the one that this version was tested with.",
        "Try again. If it happens again, a proxy or mirror changes files: use another network.",
    ),
    Remedy(
        "antivirus",
        r"os error 225\b|contains a virus|potentially unwanted software|os error 32\b|being used by another process"
        r"|WinError (32|225)\b",
        "Another program, probably the virus scanner, holds or blocked a file of the installation.",
        "Let the virus scanner exclude the data folder, close other programs that use it, and try again.",
    ),
    Remedy(
        "path",
        r"os error (206|36)\b|[Ff]ile ?name too long|filename or extension is too long|path .*too long|Errno 36\b",
        "A path in the data folder is too long for this system.",
        "Choose a data folder with a short path, such as C:\\RecDreamer.",
    ),
    Remedy(
        "read-only",
        r"Read-only file system|os error 30\b|Errno 30\b",
        "The data folder is on a disk that is read-only.",
        "Choose another data folder.",
    ),
    Remedy(
        "permission",
        r"Permission denied|Access is denied|os error (5|13)\b|Errno 13\b|Operation not permitted",
        "A file in the data folder cannot be written.",
        "Choose a data folder of your own, or let the virus scanner exclude it. Close other Blenders, too.",
    ),
    Remedy(
        "memory",
        r"Cannot allocate memory|MemoryError|os error 12\b|memory allocation of \d+ bytes failed|out of memory",
        "There is not enough memory.",
        "Close other programs, and try again.",
    ),
    Remedy(
        "missing wheel",
        r"(?P<what>[\w.-]+) was not found in the provided package locations"
        r"|No matching distribution found for (?P<pip>[\w.-]+)|there (?:is|are) no versions? of (?P<versions>[\w.-]+)"
        r"|(?P<tags>[\w.-]+)==\S+ has no wheels? with a matching",
        "There is no fitting wheel of {what}.",
        "Choose a folder that has all wheels for this system, or clear the field to download them.",
    ),
    Remedy(
        "connection",
        r"timed? ?out|[Cc]onnection (refused|reset|aborted|closed|was closed)|Network is unreachable|unreachable network"
        r"|No route to host|error decoding response body|IncompleteRead|os error (100(54|60|61)|101|104|110|111|113)\b"
        r"|end of file before message|RemoteDisconnected|Failed to read from zip file",
        "The connection to {host} broke off.",
        "Check the network, and try again. What was downloaded is kept.",
    ),
)  # fmt: skip
HOST = re.compile(r"https?://(?:[^/@\s`'\"]*@)?([\w.-]+)|host='([\w.-]+)'")


@dataclass(frozen=True)
class Failure:
    """What an installation failed of."""

    kind: str
    """Of `REMEDIES`; empty if it is none of them."""
    sentence: str
    cure: str


def explain(output: str, step: str) -> Failure:
    """The first real error in the output of a failed step, such as "Downloading".

    >>> explain("error: Failed to fetch\\n  cause: No space left on device (os error 28)", "Installing").sentence
    'The disk is full.'
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    retries = [bool(re.match(r"WARNING: Retrying", line)) for line in lines]
    # A retry may have helped, and a package is also not found when its server is not: these say less than others do.
    for is_retry, weak in ((False, False), (True, False), (False, True)):
        for index, line in enumerate(lines):
            if retries[index] == is_retry:
                for remedy in REMEDIES:
                    found = re.search(remedy.pattern, line) if (remedy.kind in WEAK) == weak else None
                    if found is not None:
                        what = next((value for value in found.groupdict().values() if value), "a package")
                        sentence = remedy.sentence.format(host=_host(lines, index), what=what)
                        return Failure(remedy.kind, sentence, remedy.cure)
    quote = next(
        (line for line in lines if re.match(r"(error|ERROR|FAIL)\b", line)), lines[-1] if lines else ""
    )
    quote = re.sub(r"^(error|ERROR|FAIL)[:\s]*", "", quote)[:MAX_QUOTE].rstrip(".")
    return Failure(
        "", f"{step} failed{f': {quote}' if quote else ''}.", "Open the log for more, and try again."
    )


def _host(lines: list[str], index: int) -> str:
    """The server that is named nearest above the error, or in it."""
    for line in reversed(lines[: index + 1]):
        found = HOST.search(line)
        if found:
            return found[1] or found[2]
    return "the server"
