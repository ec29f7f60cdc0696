"""A hub on 127.0.0.1 with small networks in the true formats, for the walk by clicks.

hub.py FOLDER      writes FOLDER/endpoint, and sends slowly until there is FOLDER/fast
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
import time
from pathlib import Path

import models_on_disk as disk
from local_hub import Fault, LocalHub

from recdreamer.catalog.entries import entries
from recdreamer.catalog.single_file import CONFIGURATIONS
from recdreamer.prior.pipeline import clip_tokenizer


def fill(hub: LocalHub, root: Path) -> None:
    """What Get Stable Diffusion asks for."""
    folders = {
        "stable-diffusion-2-1-base": disk.sd_folder(root / "sd2", "sd2", half=True),
        "dinov2-small": disk.dinov2_folder(root / "dino"),
        "taesd": disk.taesd_folder(root / "taesd"),
    }
    for name, folder in folders.items():
        entry, files = entries()[name], disk.files_of(folder)
        extra = tokenizer() if name == "stable-diffusion-2-1-base" else {}
        source = entry.sources[0]
        hub.add(source.repo, source.revision if len(source.revision) == 40 else "d" * 40, extra | files)


def tokenizer() -> dict[str, bytes]:
    """CLIP's, in the files that the Hub has of it; today's library saves another one."""
    clip = clip_tokenizer("!")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "!"}
    settings |= {"bos_token": clip.bos_token, "eos_token": clip.eos_token, "unk_token": clip.unk_token}
    return {
        "tokenizer/merges.txt": gzip.decompress((CONFIGURATIONS / "clip_merges.txt.gz").read_bytes()),
        "tokenizer/vocab.json": json.dumps(clip.get_vocab()).encode(),
        "tokenizer/tokenizer_config.json": json.dumps(settings).encode(),
        "tokenizer/special_tokens_map.json": json.dumps({"pad_token": "!"}).encode(),
    }


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
