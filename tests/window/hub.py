"""A hub on 127.0.0.1 with small networks in the true formats, for the walk by clicks.

hub.py FOLDER      writes FOLDER/endpoint, and sends slowly until there is FOLDER/fast
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import models_on_disk as disk
from local_hub import Fault, LocalHub

from recdreamer.catalog.entries import entries


def fill(hub: LocalHub, root: Path) -> None:
    """What Get Stable Diffusion asks for."""
    folders = {
        "stable-diffusion-2-1-base": disk.sd_folder(root / "sd2", "sd2", half=True),
        "dinov2-small": disk.dinov2_folder(root / "dino"),
        "taesd": disk.taesd_folder(root / "taesd"),
    }
    for name, folder in folders.items():
        entry, files = entries()[name], disk.files_of(folder)
        extra = {file.path: b"{}" for file in entry.files if file.path.startswith("tokenizer/")}
        source = entry.sources[0]
        hub.add(source.repo, source.revision if len(source.revision) == 40 else "d" * 40, extra | files)


def main() -> None:
    here = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch, LocalHub() as hub:
        fill(hub, Path(scratch))
        (here / "endpoint").write_text(hub.endpoint)
        while True:
            # Each request takes one fault, so that there is always one for the next.
            if (here / "fast").exists():
                hub.faults.clear()
            elif not hub.faults:
                hub.faults.append(Fault("trickle", at=1 << 30, seconds=0.03))
            time.sleep(0.01)


if __name__ == "__main__":
    main()
