"""Ray itself: a cluster on this machine, and processes that submit jobs to it, as Blender and the shell start them."""

import json
import os
import subprocess
import sys
import time
from concurrent import futures
from contextlib import suppress
from pathlib import Path

import pytest

from recdreamer.shared.folder_lock import ask_to_stop, is_locked
from recdreamer.shared.protocol import JobFolder

from .conftest import ROOT, TOOLS, result_of
from .test_submit import RIGHT

SUBMIT = Path(__file__).with_name("submit_stand_in.py")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    from ray_nodes import Nodes

    folder = tmp_path_factory.mktemp("ray")
    (folder / "copies").mkdir()
    copies = {"RECDREAMER_CLUSTER_FOLDER": str(folder / "copies"), "PYTHONPATH": str(ROOT / "backend")}
    nodes = Nodes(folder, nodes=1, cpus=2, environment=copies)
    yield nodes
    nodes.close()


@pytest.fixture
def submit(nodes, tmp_path):
    """Start the submitting process of a job."""
    started = []

    def start(job: JobFolder, address: str = "", **environment: str) -> subprocess.Popen:
        own = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "backend"), **nodes.environment, **environment}
        command = [sys.executable, "-P", str(SUBMIT), str(job.root), address or nodes.address]
        started.append(
            subprocess.Popen(
                command,
                env=os.environ | own,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream.close()


def finish(process: subprocess.Popen) -> tuple[int, list[dict]]:
    """Exit code and events."""
    lines = process.stdout.read().splitlines()
    return process.wait(150), [json.loads(line) for line in lines]


def wait_for(condition, limit_s: float = 150.0) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "timed out"
        time.sleep(0.05)


def test_a_job_pauses_by_its_folder_goes_on_and_looks_like_one_of_this_computer(nodes, submit, make_job):
    job, _ = make_job(overrides={"step_s": 0.4})
    process = submit(job)
    wait_for(lambda: job.read_state().step >= 2)
    assert is_locked(job.root) and job.read_state().status == "running"
    ask_to_stop(job.root, "pause")
    code, events = finish(process)
    assert code == 3 and job.read_state().status == "paused"
    assert [events[0]["type"], events[-1]["type"]] == ["hello", "paused"]
    saved = max(int(path.name.split("-")[1]) for path in job.checkpoints.iterdir())
    assert 2 <= saved < 20 and not is_locked(job.root)

    code, events = finish(submit(job))
    assert code == 0 and events[-1] == {"type": "result", "path": "result"} and result_of(job) == RIGHT
    assert min(e["step"] for e in events if e["type"] == "progress" and e["total"] == 20) >= saved
    assert job.read_state().status == "done" and not [e for e in events if e["type"] == "warning"]
    assert list((nodes.folder / "copies").iterdir()) == [], "the copy on the node is removed"


def refusal(process: subprocess.Popen) -> str:
    """The one sentence of a submission that fails at once."""
    code, events = finish(process)
    assert code == 1 and [event["type"] for event in events if event["type"] != "stage"] == ["hello", "error"]
    assert events[-1]["kind"] == "cluster" and events[-1]["hint"]
    return events[-1]["message"]


def test_a_connection_that_cannot_be_is_one_sentence(nodes, submit, make_job, tmp_path):
    job, _ = make_job()
    assert refusal(submit(job, "localhost:9")) == "There is no Ray cluster at localhost:9 (unavailable)."
    wrong = "The cluster at localhost:{} refuses the token of this computer."
    assert refusal(submit(job, RAY_AUTH_TOKEN="0" * 64)) == wrong.format(nodes.port)
    missing = refusal(submit(job, RAY_AUTH_TOKEN_PATH=str(tmp_path / "nowhere")))
    assert missing.startswith("This computer has no token for the cluster:")
    other = refusal(submit(job, OTHER_RAY="2.50.0"))
    assert other.startswith("The cluster has Ray: 2.60.0 and Python: 3.") and "has Ray: 2.50.0" in other
    assert not job.result.exists()


def test_a_cluster_without_authentication_is_refused_before_it_hears_the_token(submit, make_job):
    import grpc
    import ray.core.generated.ray_client_pb2 as messages
    import ray.core.generated.ray_client_pb2_grpc as services

    heard = []

    class Open(services.RayletDriverServicer):
        def ClusterInfo(self, request, context):
            heard.extend(value for key, value in context.invocation_metadata() if key == "authorization")
            return messages.ClusterInfoResponse(json="{}")

    server = grpc.server(futures.ThreadPoolExecutor(2))
    services.add_RayletDriverServicer_to_server(Open(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    try:
        job, _ = make_job()
        message = refusal(submit(job, f"localhost:{port}"))
    finally:
        server.stop(0).wait()
    assert message.endswith("takes jobs from anyone, because it was started without authentication.")
    assert heard == []


def test_jobs_end_once_through_killed_workers_nodes_and_head(tmp_path):
    """A small part of what the command proves with a thousand jobs."""
    command = [sys.executable, TOOLS / "proof.py", "--out", tmp_path, "--jobs", "10", "--kills", "3"]
    command += ["--head-kills", "1", "--nodes", "2", "--workers", "4", "--in-flight", "4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "backend")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ended once"] == 10 and report["wrong results"] == report["orphans"] == 0
    assert report["kills"]["head"] == 1 and sum(report["kills"].values()) >= 2
