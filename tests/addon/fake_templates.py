"""A stand-in for `python -m recdreamer templates gallery|views|check`: same files, no torch.

A word in the prompt chooses what it does: "slow" never ends, "broken" fails, "damaged" writes half a file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

SAMPLES = (
    {"image": "front-0.png", "label": "front", "share": 0.97},
    {"image": "front-1.png", "label": "front", "share": 0.81},
    {"image": "back-0.png", "label": "back", "share": 0.66},
)
VIEWS = tuple(
    {"image": f"view-{azimuth_deg}.png", "label": "", "azimuth_deg": azimuth_deg}
    for azimuth_deg in (0, 90, 180)
)


def main(arguments: list[str], write_png) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    gallery, views, check = (commands.add_parser(name) for name in ("gallery", "views", "check"))
    for name in ("prompt", "out", "seed", "prior", "device"):
        gallery.add_argument(f"--{name}", required=True)
    for name in ("image", "model", "out", "device"):
        views.add_argument(f"--{name}", required=True)
    check.add_argument("folder", type=Path)
    check.add_argument("--device", required=True)
    asked = parser.parse_args(arguments)
    if asked.command == "check":
        request = json.loads((asked.folder / "job.json").read_text(encoding="utf-8"))
        misbehave(request["prompt"])
        return write_check(asked.folder, request, write_png)
    if asked.command == "gallery":
        misbehave(asked.prompt)
    else:
        assert Path(asked.image).is_file()
    out = Path(asked.out)
    samples = SAMPLES if asked.command == "gallery" else VIEWS
    for number, sample in enumerate(samples, 1):
        print(f"Picture {number} of {len(samples)}", flush=True)
        write_png(out / sample["image"], np.full((32, 32, 3), 60 * number, np.uint8))
    text = json.dumps({"samples": samples})
    if asked.command == "gallery" and "damaged" in asked.prompt:
        text = text[:20]
    (out / "gallery.json").write_text(text, encoding="utf-8")
    return 0


def inspect(arguments: list[str]) -> int:
    """`evaluate janus`: keeps what was asked beside an empty report."""
    out = Path(arguments[arguments.index("--out") + 1])
    assert Path(arguments[1]).is_file()
    (out / "asked.json").write_text(json.dumps(arguments), encoding="utf-8")
    (out / "report.html").write_text("<!doctype html>", encoding="utf-8")
    return 0


def misbehave(prompt: str) -> None:
    if "slow" in prompt:
        print("Picture 1 of 4", flush=True)
        time.sleep(600)
    if "broken" in prompt:
        print("The prior has no memory left.", flush=True)
        raise SystemExit(1)


def write_check(folder: Path, request: dict, write_png) -> int:
    """Recognize every template as front, and warn about those with another label."""
    (folder / "check").mkdir()
    templates = []
    for index, template in enumerate(request["templates"]):
        assert (folder / template["image"]).is_file()
        pictures = {name: f"check/{name}-{index}.png" for name in ("overlay", "match")}
        for picture in pictures.values():
            write_png(folder / picture, np.full((32, 32, 3), 200, np.uint8))
        text = f"This view looks like front, but its label is {template['label']}."
        warning = {
            "message": text,
            "hint": "Change its label, mirror it if it faces the other way, or use another picture.",
        }
        templates.append(
            {
                "image": template["image"],
                "label": template["label"],
                "reads_as": "front",
                "pose_probs": {"front": 0.75, "back": 0.25},
                "coverage": 0.3,
                "warnings": [] if template["label"] == "front" else [warning],
                **pictures,
            }
        )
    warnings = [
        {"message": "Front and left cannot be told apart.", "hint": "Mirror one of them, or remove it."}
    ]
    report = {"templates": templates, "warnings": warnings}
    (folder / "check" / "check.json").write_text(json.dumps(report), encoding="utf-8")
    return 0
