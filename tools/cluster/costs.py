"""What a job on a cluster costs beside its own work: for `proof.py --costs`.

Processor time is counted, not only wall time, because it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path
from typing import Any

from recdreamer.cluster.connection import Cluster
from recdreamer.cluster.host import FOLDER
from recdreamer.cluster.submit import run_on

from proof import BACKEND, Counting, prepared, stand_in_destination
from ray_nodes import Nodes

SHORT, LONG_S, WORK_S = 10, 20.0, 4.0
"""Jobs without work; seconds of the job whose events are counted; seconds of work in a job of the throughput."""
PARTS = {
    "head": (b"gcs_server", b"ray.util.client.server"),
    "hosts": (b"ray::",),
    "workers": (b"stand_in_worker.py",),
}
"""Words in the command lines of processes."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    out = options.out.absolute()
    (out / "copies").mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for workers, key in ((1, "one"), (options.workers, "all")):
        nodes = Nodes(
            out, min(workers, options.nodes), max(1, workers // options.nodes),
            environment={"PYTHONPATH": str(BACKEND), FOLDER: str(out / "copies")},
        )  # fmt: skip
        os.environ.update(nodes.environment)
        try:
            begun = time.monotonic()
            cluster = Cluster(stand_in_destination(nodes.address))
            found["connect, s"] = round(time.monotonic() - begun, 2)
            if key == "one":
                found |= submits(cluster, nodes, out) | events(cluster, nodes, out)
            found[f"jobs per minute, {workers} worker(s)"] = throughput(cluster, nodes, out, workers)
            cluster.close()
        finally:
            nodes.close()
    one, many = (found[f"jobs per minute, {n} worker(s)"] for n in (1, options.workers))
    found["efficiency"] = round(many / one / options.workers, 2)
    return found | on_paper(found)


def submits(cluster: Cluster, nodes: Nodes, out: Path) -> dict[str, Any]:
    """Jobs without work, one after another."""
    before, begun = cpu_times(out), time.monotonic()
    for number in range(SHORT):
        run_one(cluster, nodes, out, f"short-{number}", num_steps=1, step_s=0.0, save_every=1)
    wall_s = (time.monotonic() - begun) / SHORT
    spent = {name: (after - before[name]) / SHORT for name, after in cpu_times(out).items()}
    return {"job without work, wall s": round(wall_s, 2)} | {
        f"job without work, cpu s of {name}": round(value, 3)
        for name, value in spent.items()
        if name in ("submitter", "head")
    }


def events(cluster: Cluster, nodes: Nodes, out: Path) -> dict[str, Any]:
    """A job that reports all the time: what a second of it costs, and what an event."""
    before = cpu_times(out)
    report = run_one(cluster, nodes, out, "long", num_steps=int(LONG_S / 0.02), step_s=0.02, save_every=10**6)
    spent = {name: after - before[name] for name, after in cpu_times(out).items()}
    return {
        "events per second of a job": round(report.events / LONG_S, 1),
        "second of a job, cpu ms of submitter": round(1000 * spent["submitter"] / LONG_S, 1),
        "second of a job, cpu ms of head": round(1000 * spent["head"] / LONG_S, 1),
        "second of a job, cpu ms of hosts": round(1000 * spent["hosts"] / LONG_S, 1),
    }


def throughput(cluster: Cluster, nodes: Nodes, out: Path, workers: int) -> float:
    """Jobs per minute, each with WORK_S of sleep."""
    numbers = iter(range(4 * workers))
    lock, begun = threading.Lock(), time.monotonic()

    def submit() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            run_one(cluster, nodes, out, f"work-{workers}-{number}", num_steps=20, step_s=WORK_S / 20)

    threads = [threading.Thread(target=submit) for _ in range(workers + workers // 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return round(60 * 4 * workers / (time.monotonic() - begun), 1)


def run_one(cluster: Cluster, nodes: Nodes, out: Path, name: str, **overrides: Any) -> Counting:
    report = Counting()
    folder = out / f"{name}-{time.time_ns()}"
    job, request = prepared(folder, 1, out / "ledger.txt", **overrides)
    run_on(cluster, stand_in_destination(nodes.address), job, request, report)
    return report


def cpu_times(out: Path) -> dict[str, float]:
    """Processor seconds so far of this process, and of those processes of its cluster that live."""
    tick, found = os.sysconf("SC_CLK_TCK"), dict.fromkeys(("submitter", *PARTS), 0.0)
    found["submitter"] = time.process_time()
    mark = f"RAY_AUTH_TOKEN_PATH={out / 'token'}".encode()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes()
            name = next((name for name, marks in PARTS.items() if any(one in words for one in marks)), "")
            if name and mark in (entry / "environ").read_bytes():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found[name] += sum(map(int, fields[11:13])) / tick
        except OSError:
            continue
    return found


def on_paper(
    found: dict[str, Any], workers: int = 100, jobs: int = 10_000, job_s: float = 900.0
) -> dict[str, Any]:
    """What 100 workers and 10,000 jobs of 15 minutes would ask of the head and of all submitting processes."""
    share = workers * found["second of a job, cpu ms of head"] / 1000
    once = found["job without work, cpu s of head"] * workers / job_s
    return {
        "on paper": {
            "workers": workers,
            "jobs": jobs,
            "hours": round(jobs * job_s / workers / 3600, 1),
            "cores of the head": round(share + once, 2),
            "cores of all submitters": round(
                workers * found["second of a job, cpu ms of submitter"] / 1000
                + found["job without work, cpu s of submitter"] * workers / job_s,
                2,
            ),
            "events per second": round(workers * found["events per second of a job"]),
        }
    }
