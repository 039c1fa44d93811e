"""The local executor, mostly with a stand-in for the job that starts at once; the last test runs the real one."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import Conflict, InvalidInput, NotFound
from infra.objects import ObjectStore, open_objects
from infra.platform import Platform
from infra.settings import Settings
from training.contract import Layout
from training.executors import supervisor
from training.executors.local import LocalExecutor
from training.executors.protocol import JobRef, JobSpec, JobState, JobStatus

STAND_IN = """
import json, os, pathlib, signal, sys, time
base = pathlib.Path(os.environ["MLPL_ML_DIR"])
orders = json.loads((base / "input/config/hyperparameters.json").read_text())
print("attempt", os.environ["SM_NUM_CPUS"], orders["do"], flush=True)
checkpoints = base / "checkpoints"
steps = len(list(checkpoints.iterdir()))
(checkpoints / f"step-{steps:09d}-0123456789abcdef.pt").touch()
def end(code): sys.stdout.flush(); os._exit(code)
if orders["do"] == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: end(143))
if orders["do"] == "fail":
    (base / "output/failure").write_text("no good")
    end(1)
if orders["do"] == "crash":
    end(7)
if orders["do"] == "die":
    (checkpoints / f"step-{steps:09d}-0123456789abcdef.pt").unlink()
    os.kill(os.getpid(), signal.SIGKILL)
if orders["do"] in ("wait", "ignore") and steps < int(orders.get("resumes", 1_000_000)):
    time.sleep(600)
if orders["do"] != "nothing":
    (base / "model/model.safetensors").write_bytes(b"tensors")
    (base / "model/model.json").write_text("{}")
    (base / "output/data/metrics.json").write_text(json.dumps({"metric": 0.5}))
end(0)
"""


@pytest.fixture
def objects(settings: Settings) -> ObjectStore:
    store = open_objects(settings)
    store.put("datasets/d1/manifest.jsonl", b'{"source-ref": "file:///x"}\n')
    store.put("frames/ab/abcd.jpg", b"image")
    return store


@pytest.fixture
def make(settings: Settings, objects: ObjectStore, tmp_path: Path) -> Iterator[Callable[..., LocalExecutor]]:
    """Makes executors with the stand-in job; no process of theirs outlives the test."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    database: Any = None  # The executor keeps its state in the file system alone.
    platform = Platform(settings=settings, database=database, objects=objects)

    def executor(**options: Any) -> LocalExecutor:
        return LocalExecutor(platform, **{"threads": 1, "command": (sys.executable, str(script)), **options})

    yield executor
    for record in settings.home.glob("jobs/*/attempts/*.json"):
        for who in ("job", "supervisor"):
            identity = json.loads(record.read_text())[who]
            if identity and supervisor.identify(identity["pid"]) == identity:
                os.kill(identity["pid"], signal.SIGKILL)


def spec(do: str, job_name: str = "wf-1", **orders: str) -> JobSpec:
    return JobSpec(
        job_name=job_name,
        hyperparameters={"do": do, **orders},
        channels={"dataset": "datasets/d1/manifest.jsonl", "frames": "frames/"},
        output_prefix="workflows",
        environment={"EXTRA": "1"},
    )


def wait(executor: LocalExecutor, ref: JobRef, *states: JobState) -> JobStatus:
    while (status := executor.status(ref)).state not in states:
        assert status.state == "running", status
        time.sleep(0.05)
    return status


def wait_started(settings: Settings, number: int, job_name: str = "wf-1") -> dict[str, Any]:
    """Waits until the attempt's job runs and has written its checkpoint."""
    folder = settings.home / "jobs" / job_name
    while True:
        record: dict[str, Any] = json.loads((folder / "attempts" / f"{number:04d}.json").read_text())
        if record["job"] and len(list((folder / "ml/checkpoints").iterdir())) >= number:
            return record
        time.sleep(0.02)


def kill(identity: dict[str, int]) -> None:
    os.kill(identity["pid"], signal.SIGKILL)
    while supervisor.identify(identity["pid"]) == identity:
        time.sleep(0.01)


def test_a_completed_job_has_its_results_in_the_object_store(
    make: Callable[..., LocalExecutor], objects: ObjectStore
) -> None:
    executor = make()
    ref = executor.submit(spec("complete"))
    status = wait(executor, ref, "completed")
    assert status.model_key == "workflows/wf-1/output/model.tar.gz"
    assert status.output_key == "workflows/wf-1/output/output.tar.gz"
    assert status.metrics == {"metric": 0.5}
    assert len(status.attempts) == 1
    assert status.attempts[0].exit_code == 0
    assert status.billable_s == pytest.approx(
        (status.attempts[0].ended_at - status.attempts[0].started_at).total_seconds(),
        abs=0.01,  # type: ignore[operator]
    )
    packed = objects.get(status.model_key)
    assert gzip.decompress(packed)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert [(m.name, m.mtime, m.mode) for m in tar] == [("model.json", 0, 0o644), ("model.safetensors", 0, 0o644)]
    assert list(executor.logs(ref)) == ["attempt 1 complete"]
    # Submitting and asking again changes nothing, in another process neither.
    assert make().submit(spec("complete")) == ref
    assert make().status(ref) == status


def test_the_same_model_gives_the_same_bytes(make: Callable[..., LocalExecutor]) -> None:
    executor = make()
    digests = {wait(executor, executor.submit(spec("complete", name)), "completed").model_digest for name in ("a", "b")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("fail", "no good"),
        ("crash", "the job ended with exit code 7; see its log"),
        ("nothing", "the job ended well but left no model/model.safetensors"),
    ],
)
def test_a_failed_job_says_why(make: Callable[..., LocalExecutor], do: str, reason: str) -> None:
    executor = make()
    status = wait(executor, executor.submit(spec(do)), "failed")
    assert status.failure_reason == reason
    assert status.model_key is None
    executor.submit(spec(do))
    assert len(executor.status(JobRef("wf-1")).attempts) == 1, "a failed job is not tried again"


def test_the_job_finds_the_world_of_a_container(make: Callable[..., LocalExecutor], settings: Settings) -> None:
    os.environ["MLPL_SECRET_OF_MINE"] = "x"
    try:
        make().submit(spec("wait"))
    finally:
        del os.environ["MLPL_SECRET_OF_MINE"]
    record = wait_started(settings, 1)
    layout = Layout(base=settings.home / "jobs/wf-1/ml")
    assert (layout.channel("frames") / "ab/abcd.jpg").read_bytes() == b"image"
    assert (layout.channel("dataset") / "manifest.jsonl").is_file()
    assert json.loads(layout.resource_config.read_text())["hosts"] == ["algo-1"]
    assert json.loads(layout.input_data_config.read_text())["frames"]["TrainingInputMode"] == "File"
    raw = Path(f"/proc/{record['job']['pid']}/environ").read_bytes().decode()
    environment = dict(entry.split("=", 1) for entry in raw.split("\0") if entry)
    assert environment["MLPL_ML_DIR"] == str(layout.base)
    assert environment["SM_CHANNEL_FRAMES"] == str(layout.channel("frames"))
    assert environment["SM_HP_DO"] == "wait"
    assert json.loads(environment["SM_HPS"]) == {"do": "wait"}
    assert environment["SM_MODEL_DIR"] == str(layout.model)
    assert environment["TRAINING_JOB_NAME"] == "wf-1"
    assert environment["EXTRA"] == "1"
    assert environment["PYTHONHASHSEED"] == "0"
    assert "MLPL_SECRET_OF_MINE" not in environment
    assert os.getsid(record["job"]["pid"]) != os.getsid(0)


def test_stop_lets_the_job_save_itself(make: Callable[..., LocalExecutor], settings: Settings) -> None:
    executor = make()
    ref = executor.submit(spec("wait"))
    wait_started(settings, 1)
    executor.stop(ref)
    status = wait(executor, ref, "stopped")
    assert status.attempts[0].exit_code == 143
    executor.stop(ref)
    executor.submit(spec("wait"))
    assert executor.status(ref).state == "stopped", "a stopped job stays stopped"


def test_stop_kills_after_the_grace(make: Callable[..., LocalExecutor], settings: Settings) -> None:
    executor = make(stop_grace_s=0.3)
    ref = executor.submit(spec("ignore"))
    wait_started(settings, 1)
    executor.stop(ref)
    assert wait(executor, ref, "stopped").attempts[0].exit_code == -9


@pytest.mark.parametrize("do", ["wait", "ignore"])
def test_stop_works_without_a_supervisor(make: Callable[..., LocalExecutor], settings: Settings, do: str) -> None:
    executor = make(stop_grace_s=0.3)
    ref = executor.submit(spec(do))
    record = wait_started(settings, 1)
    kill(record["supervisor"])
    assert executor.status(ref).state == "running", "the job itself lives on"
    executor.stop(ref)
    status = wait(executor, ref, "stopped")
    assert status.attempts[0].exit_code is None
    assert status.attempts[0].ended_at is not None


@pytest.mark.parametrize("victims", [("job",), ("supervisor", "job")])
def test_a_killed_job_is_resumed(
    make: Callable[..., LocalExecutor], settings: Settings, victims: tuple[str, ...]
) -> None:
    executor = make()
    order = spec("wait", resumes="1")
    ref = executor.submit(order)
    record = wait_started(settings, 1)
    for victim in victims:
        kill(record[victim])
    status = wait(executor, ref, "interrupted")
    assert len(status.attempts) == 1
    assert status.attempts[0].ended_at is not None
    assert executor.submit(order) == ref
    status = wait(executor, ref, "completed")
    assert [attempt.number for attempt in status.attempts] == [1, 2]
    assert status.attempts[1].exit_code == 0
    assert status.ended_at == status.attempts[1].ended_at
    assert len(list(executor.logs(ref))) == 2


def test_a_job_outlives_its_supervisor_and_is_not_started_twice(
    make: Callable[..., LocalExecutor], settings: Settings
) -> None:
    executor = make()
    ref = executor.submit(spec("wait"))
    record = wait_started(settings, 1)
    kill(record["supervisor"])
    executor.submit(spec("wait"))
    assert executor.status(ref).state == "running"
    assert len(executor.status(ref).attempts) == 1


def test_a_machine_that_shuts_down_interrupts(make: Callable[..., LocalExecutor], settings: Settings) -> None:
    executor = make()
    ref = executor.submit(spec("wait"))
    record = wait_started(settings, 1)
    os.kill(record["supervisor"]["pid"], signal.SIGTERM)
    assert wait(executor, ref, "interrupted").attempts[0].exit_code == 143


def test_many_submitters_start_one_job(make: Callable[..., LocalExecutor]) -> None:
    executors = [make() for _ in range(6)]
    threads = [threading.Thread(target=executor.submit, args=(spec("wait"),)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(executors[0].status(JobRef("wf-1")).attempts) == 1


def test_a_job_that_is_killed_again_and_again_has_failed(make: Callable[..., LocalExecutor]) -> None:
    executor = make()
    for _ in range(10):
        wait(executor, executor.submit(spec("die")), "interrupted")
    executor.submit(spec("die"))
    status = executor.status(JobRef("wf-1"))
    assert status.state == "failed"
    assert status.failure_reason is not None
    assert "killed 10 times without progress" in status.failure_reason
    assert len(status.attempts) == 10


def test_a_submitter_killed_while_preparing_leaves_nothing_in_the_way(
    make: Callable[..., LocalExecutor], settings: Settings
) -> None:
    preparing = settings.home / "jobs/.preparing/wf-1"
    preparing.mkdir(parents=True)
    (preparing / "job.json").write_text(json.dumps({"job_name": "another spec"}))
    (preparing / "ml").mkdir()
    executor = make()
    with pytest.raises(NotFound):
        executor.status(JobRef("wf-1"))
    assert wait(executor, executor.submit(spec("complete")), "completed")


def test_what_cannot_be_submitted(make: Callable[..., LocalExecutor]) -> None:
    executor = make()
    executor.submit(spec("complete"))
    with pytest.raises(Conflict, match="another spec"):
        executor.submit(spec("fail"))
    with pytest.raises(InvalidInput, match="no job name"):
        spec("complete", "Wf_1")
    with pytest.raises(InvalidInput, match="no object datasets/none"):
        executor.submit(
            JobSpec(job_name="wf-2", hyperparameters={}, channels={"dataset": "datasets/none"}, output_prefix="w")
        )
    for call in (executor.status, executor.stop, executor.logs):
        with pytest.raises(NotFound):
            call(JobRef("wf-3"))


def test_the_real_job(settings: Settings, kit: Any) -> None:
    store = open_objects(settings)
    database: Any = None
    uri = store.uri("frames")
    lines = []
    for row, (one, split) in enumerate(kit.scenes(6, 4)):
        line = kit.manifest_line(one, row=row, split=split, uri=uri)
        store.put(store.key_of(line["source-ref"]), one.data)
        lines.append(json.dumps(line) + "\n")
    store.put("datasets/d/manifest.jsonl", "".join(lines).encode())
    executor = LocalExecutor(Platform(settings=settings, database=database, objects=store), threads=1)
    order = JobSpec(
        job_name="wf-real",
        hyperparameters=kit.hyperparameters(frames_uri=f"{uri}/", threads=0).to_strings(),
        channels={"dataset": "datasets/d/manifest.jsonl", "frames": "frames/"},
        output_prefix="workflows",
    )
    status = wait(executor, executor.submit(order), "completed")
    assert status.metrics is not None
    assert status.metrics["train"]["threads"] == 1
    assert json.loads(next(executor.logs(JobRef("wf-real"))))["event"] == "started"
    # The next job is compared with it, from the archive as SageMaker would hand it over.
    assert status.model_key is not None
    channels = {**order.channels, "baseline": status.model_key, "initial": status.model_key}
    follower = JobSpec(
        job_name="wf-next", hyperparameters=order.hyperparameters, channels=channels, output_prefix="workflows"
    )
    after = wait(executor, executor.submit(follower), "completed").metrics
    assert after is not None
    assert after["baseline"] is not None
    assert after["baseline"]["metric"] == status.metrics["metric"]
    assert after["train"]["initial_tensors"] == after["train"]["model_tensors"]


def test_the_supervisor_is_small() -> None:
    code = "import sys, training.executors.supervisor; print(len(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 250
