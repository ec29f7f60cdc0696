#!/usr/bin/env python3
"""Every command of the project, from a fresh checkout: python3 tools/dev.py {setup,demo,test,check,build,bench,lock}.

Creates the environments under .venv/ on demand, and fetches the interpreters that are missing. Standard library only,
in any Python from 3.11 on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from environments import BACKEND, BLENDERS, ROOT, SetupError, ensure_gltf_validator, run_shown

IN_CI = bool(os.environ.get("CI"))
BLENDER_LIMIT_S = 1500


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="create all environments")
    commands.add_parser("check", help="lint, format, types")
    commands.add_parser("lock", help="write the lock files of Install Backend again")
    commands.add_parser("build", help="build and validate the extension's zip under dist/")
    bench = commands.add_parser("bench", help="time one step of each method, split by part")
    bench.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to `recdreamer bench`")
    test = commands.add_parser("test", help="check and all tests")
    test.add_argument("--only", choices=["check", "backend", *(b.name for b in BLENDERS)], help="one part")
    demo = commands.add_parser("demo", help="generate a textured mesh with the embedded prior")
    demo.add_argument("--prompt", default="a red bear")
    demo.add_argument(
        "--method",
        choices=[
            "usd",
            "vsd",
            "esd",
            "sds",
            "debiased_sds",
            "perp_neg",
            "sds_bridge",
            "consdreamer",
            "sdi",
            "usd_sdi",
        ],
        default="usd",
    )
    demo.add_argument("--seed", type=int, default=1)
    demo.add_argument(
        "--templates", type=Path, help="folder of pictures named front.png, back.png, left.png …"
    )
    demo.add_argument("--quick", action="store_true", help="fewer steps and a coarser mesh")
    demo.add_argument("--out", type=Path, default=ROOT / "out" / "demo")
    options = parser.parse_args()
    try:
        return COMMANDS[options.command](options)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Repeat the command to resume.", file=sys.stderr)
        return 130


def setup(options: argparse.Namespace) -> int:
    for environment in (BACKEND, *BLENDERS):
        print(f"{environment.name}: {environment.ensure()}")
    ensure_gltf_validator()
    return 0


def demo(options: argparse.Namespace) -> int:
    """Generate the main result into `--out`. A second call resumes an interrupted one."""
    # Any Blender will do, so one whose Python is on this machine.
    environment = next((one for one in BLENDERS[1:] if one.find_base()), BLENDERS[1])
    python, blender = BACKEND.ensure(), environment.ensure()
    out = options.out.resolve()
    job, settings = out / "job", out / "settings.json"
    arguments = ["--prompt", options.prompt, "--method", options.method, "--seed", str(options.seed)]
    arguments += ["--quality", "quick" if options.quick else "standard", "--processes", "0"]
    if options.templates:
        arguments += ["--templates", str(options.templates.resolve())]
    if settings.exists() and settings.read_text(encoding="utf-8") != json.dumps(arguments):
        print("The settings have changed; starting over.")
        shutil.rmtree(job, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps(arguments), encoding="utf-8")
    if run([python, "-m", "recdreamer", "generate", *arguments, "--out", job]):
        return 1
    for what in ("job", "mesh"):
        if run([python, "-m", "recdreamer", "evaluate", what, job]):
            return 1
    for name in ("model.glb", "report.json"):
        shutil.copyfile(job / "result" / name, out / name)
    script = [blender, ROOT / "tools" / "pictures" / "demo_blend.py", job, "--out", out]
    run_shown("model.blend and turntable.png", [str(part) for part in script])
    print(f"In {out}: " + ", ".join(sorted(path.name for path in out.iterdir())))
    return 0


def build(options: argparse.Namespace) -> int:
    return run([BLENDERS[0].ensure(), ROOT / "tools" / "build_extension.py"])


def lock(options: argparse.Namespace) -> int:
    from lock import write_all

    write_all()
    return 0


def bench(options: argparse.Namespace) -> int:
    return run([BACKEND.ensure(), "-m", "recdreamer", "bench", *options.arguments])


def check(options: argparse.Namespace) -> int:
    """Lint, format and types. All of them run, even if one fails."""
    python = BACKEND.ensure()
    return max(
        run([python, "-m", "ruff", "check", "."]),
        run([python, "-m", "ruff", "format", "--check", "."]),
        run([python, "-m", "basedpyright", "--level", "error"]),
    )


@dataclass
class Tally:
    """Counts over all parts of the test run."""

    passed: int = 0
    failed: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, part: str, passed: int, failed: int, started: float) -> None:
        self.passed += passed
        self.failed += failed
        self.lines.append(f"{part}: {passed} passed, {failed} failed in {time.monotonic() - started:.0f} s")


def test(options: argparse.Namespace) -> int:
    tally = Tally()
    wanted = lambda part: options.only in (None, part)  # noqa: E731
    if wanted("check"):
        started = time.monotonic()
        failed = bool(check(options))
        tally.add("check", int(not failed), int(failed), started)
    if wanted("backend"):
        ensure_gltf_validator()
        ignored = [f"--ignore={ROOT / 'tests' / name}" for name in ("blender", "window")]
        # The networks are too small to gain from a second thread, but a second process helps.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        run_pytest("backend", BACKEND.ensure(), ["-n", "2", "--dist", "loadfile", *ignored], tally, None)
    for environment in BLENDERS:
        if wanted(environment.name):
            try:
                python = environment.ensure()
                BACKEND.ensure()
            except SetupError as error:
                print(f"\n{'FAILED' if IN_CI else 'SKIPPED'} {environment.name}: {error}")
                if IN_CI or options.only:
                    tally.add(environment.name, 0, 1, time.monotonic())
                else:
                    tally.lines.append(f"{environment.name}: SKIPPED. {error}")
                continue
            run_pytest(environment.name, python, [ROOT / "tests" / "blender"], tally, BLENDER_LIMIT_S)
    print("\n" + "\n".join(tally.lines))
    print(f"{tally.passed} passed, {tally.failed} failed")
    return int(tally.failed > 0)


def run_pytest(part: str, python: Path, arguments: list, tally: Tally, limit_s: float | None) -> None:
    """Run one pytest process. A crash or a timeout counts as a failure."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        code = run([python, "-m", "pytest", "-q", f"--junitxml={report}", *arguments], limit_s)
        try:
            suites = ElementTree.parse(report).getroot().iter("testsuite")
            counts = [
                {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
                for suite in suites
            ]
        except (OSError, ElementTree.ParseError):
            counts = []
    failed = sum(c["failures"] + c["errors"] for c in counts)
    passed = sum(c["tests"] - c["failures"] - c["errors"] - c["skipped"] for c in counts)
    if passed == 0 or (code and not failed):
        failed += 1
    tally.add(part, passed, failed, started)


def run(command: list, limit_s: float | None = None) -> int:
    """Run a program in the checkout and show its output. Returns its exit code, or 124 after the time limit."""
    # Threads that spin while they wait are very slow on a busy machine.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"PYTHONUTF8": "1"}
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=environment)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        print(f"Stopped after {limit_s:.0f} s: {command[0]}", file=sys.stderr)
        return 124
    except KeyboardInterrupt:
        # On a terminal the program got the same signal and saves its work.
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.terminate()
        raise


COMMANDS = {
    "setup": setup,
    "demo": demo,
    "test": test,
    "check": check,
    "build": build,
    "bench": bench,
    "lock": lock,
}

if __name__ == "__main__":
    sys.exit(main())
