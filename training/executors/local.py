"""The local executor: training jobs as subprocesses of this machine, in the world of a SageMaker container.

A job is a folder `<home>/jobs/<job_name>`, complete from the moment it has that name:

    job.json      the spec                  ml/             what the container sees as /opt/ml
    run.lock      held while it runs        attempts/       one record and log per attempt
    stop          a request to stop         exit.json       the outcome    collected.json  where the results went

A supervisor (see that module) starts the job and watches it. Both hold `run.lock`, inherited from the submitter, so the
lock alone tells "running", also after `kill -9` of mlpl, of the supervisor or of the job; and nobody can start a job
that runs. A job that is not running and has no outcome was interrupted: submitting it again goes on from its
checkpoints.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.errors import BackendUnavailable, Conflict, InvalidInput, NotFound, StorageFull
from infra.logs import get_logger
from infra.platform import Platform
from training.contract import BASE_VARIABLE, STOP_GRACE_S, Layout
from training.executors import container, supervisor
from training.executors.protocol import Attempt, JobRef, JobSpec, JobState, JobStatus

log = get_logger(__name__)

MAX_KILLS_WITHOUT_PROGRESS = 10
"""After so many attempts in a row that were killed before their first new checkpoint, the job has failed."""
_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_CODE_ROOT = Path(__file__).resolve().parents[2]
_NO_SPACE = (28, 122)


class LocalExecutor:
    """Runs jobs on this machine. Any number of processes may use one home at once; they share its jobs."""

    def __init__(
        self,
        platform: Platform,
        *,
        stop_grace_s: float = STOP_GRACE_S,
        threads: int | None = None,
        command: Sequence[str] = (sys.executable, "-m", "training.job", "train"),
    ) -> None:
        """Starts nothing yet.

        Args:
            platform: Its home holds the jobs, its objects the inputs and results.
            stop_grace_s: From SIGTERM to SIGKILL.
            threads: What the job is told of as `SM_NUM_CPUS`; by default the cores this process may use.
            command: What stands for the container's entry point.
        """
        self._objects = platform.objects
        self._device = platform.settings.device
        self._jobs = platform.settings.home / "jobs"
        self._stop_grace_s = stop_grace_s
        self._command = tuple(command)
        self._threads = threads or len(os.sched_getaffinity(0))

    @property
    def name(self) -> str:
        """`local:` and an id of this home's jobs; a process on another machine, with another home, must leave them alone."""
        identity = self._jobs / ".identity"
        if not identity.exists():
            with self._submitting(identity.name):
                if not identity.exists():
                    supervisor.write_json(identity, uuid.uuid4().hex[:12])
        return f"local:{_read_json(identity)}"

    def submit(self, spec: JobSpec) -> JobRef:
        """Starts the job, resumes it if it was interrupted, or finds it running or ended.

        Raises:
            Conflict: A job of this name exists with another spec.
            NotFound, InvalidInput: A channel's object is missing.
            StorageFull: The job folder cannot be filled.
        """
        ref = JobRef(spec.job_name)
        folder = self._jobs / spec.job_name
        with _out_of_space_is_ours(folder), self._submitting(spec.job_name):
            if not folder.exists():
                self._create(folder, spec)
            elif _read_json(folder / "job.json") != _plain(spec):
                raise Conflict(
                    f"job {spec.job_name} exists with another spec; give this one another name", job_name=spec.job_name
                )
            if _outcome(folder) is None:
                self._start(folder, spec)
        return ref

    def status(self, ref: JobRef) -> JobStatus:
        """How the job stands; results of a completed one are put into the object store first.

        Raises:
            NotFound: No such job.
            BackendUnavailable: The results cannot be stored now.
        """
        folder = self._folder(ref)
        running = _is_running(folder)
        outcome = None if running else _outcome(folder)
        attempts = _attempts(folder, running=running)
        state: JobState = "running" if running else outcome["state"] if outcome else "interrupted"
        if running:
            self._insist_on_stop(folder)
        results: dict[str, Any] = {}
        failure_reason = outcome["failure_reason"] if outcome else None
        if state == "completed":
            try:
                with _out_of_space_is_ours(folder):
                    results = self._collect(folder)
            except InvalidInput as exc:
                state, failure_reason = "failed", exc.message
        return JobStatus(
            job_name=str(ref),
            state=state,
            failure_reason=failure_reason,
            started_at=attempts[0].started_at if attempts else None,
            ended_at=attempts[-1].ended_at if attempts and not running else None,
            billable_s=_billable_s(attempts, now=datetime.now(UTC)),
            attempts=attempts,
            **results,
        )

    def stop(self, ref: JobRef) -> None:
        """Asks the job to stop; its supervisor does the rest, or this method where the supervisor was killed.

        Raises:
            NotFound: No such job.
        """
        folder = self._folder(ref)
        if _outcome(folder) is not None:
            return
        (folder / "stop").touch()
        if _is_running(folder) and not _is_alive(_last_record(folder), "supervisor"):
            _signal_job(folder, signal.SIGTERM)

    def logs(self, ref: JobRef) -> Iterator[str]:
        """Lines the job wrote so far, over all attempts.

        Raises:
            NotFound: No such job.
        """
        folder = self._folder(ref)
        return _lines(folder)

    def _folder(self, ref: JobRef) -> Path:
        folder = self._jobs / ref
        if not (folder / "job.json").is_file():
            raise NotFound(f"job {ref} does not exist under {self._jobs}", job_name=str(ref))
        return folder

    @contextmanager
    def _submitting(self, job_name: str) -> Iterator[None]:
        """One submitter of a job at a time; the lock ends with its process."""
        locks = self._jobs / ".submitting"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / job_name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _create(self, folder: Path, spec: JobSpec) -> None:
        """Fills a folder beside the final one and renames it; what a killed submitter left there is used."""
        preparing = self._jobs / ".preparing" / spec.job_name
        if preparing.exists() and _read_json(preparing / "job.json") != _plain(spec):
            shutil.rmtree(preparing)
        preparing.mkdir(parents=True, exist_ok=True)
        supervisor.write_json(preparing / "job.json", _plain(spec))
        container.write_input(Layout(base=preparing / "ml"), spec, objects=self._objects)
        preparing.replace(folder)

    def _start(self, folder: Path, spec: JobSpec) -> None:
        """Starts an attempt unless one runs. The lock passes from here to the supervisor and from it to the job."""
        lock_fd = _take_lock(folder)
        if lock_fd is None:
            return
        try:
            if _outcome(folder) is not None or _give_up(folder):
                return
            arguments = [str(folder), str(lock_fd), str(self._stop_grace_s), *self._command]
            started = subprocess.run(
                [sys.executable, "-m", "training.executors.supervisor", *arguments],
                env=self._environment(folder, spec),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock_fd,),
                start_new_session=True,
                check=False,
            )
        finally:
            os.close(lock_fd)
        if started.returncode != 0:
            raise BackendUnavailable(
                f"the supervisor of job {spec.job_name} did not start (exit code {started.returncode})",
                job_name=spec.job_name,
            )
        log.info("job_started", job_name=spec.job_name, attempt=len(supervisor.attempt_numbers(folder)))

    def _environment(self, folder: Path, spec: JobSpec) -> dict[str, str]:
        """Everything the job sees, spelled out: what the caller happens to have set must not change a training."""
        layout = Layout(base=folder / "ml")
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        if self._device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        elif self._device.startswith("cuda:"):
            environment["CUDA_VISIBLE_DEVICES"] = self._device.removeprefix("cuda:")
        gpus = 0 if self._device == "cpu" else len(list(Path("/dev").glob("nvidia[0-9]*")))
        environment |= {
            "PYTHONPATH": str(_CODE_ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": str(self._threads),
            "MKL_NUM_THREADS": str(self._threads),
            BASE_VARIABLE: str(layout.base),
        }
        environment |= container.variables(layout, spec, cpus=self._threads, gpus=gpus)
        return environment | dict(spec.environment)

    def _insist_on_stop(self, folder: Path) -> None:
        """Kills a job that ignores a stop request and has no supervisor left to do it."""
        try:
            waited_s = time.time() - (folder / "stop").stat().st_mtime
        except FileNotFoundError:
            return
        if waited_s > self._stop_grace_s and not _is_alive(_last_record(folder), "supervisor"):
            _signal_job(folder, signal.SIGKILL)

    def _collect(self, folder: Path) -> dict[str, Any]:
        """Puts `model.tar.gz` and `output.tar.gz` into the object store, once; again does no harm.

        Raises:
            InvalidInput: The job says it completed but left no model or no metrics.
        """
        layout = Layout(base=folder / "ml")
        done = folder / "collected.json"
        if not done.exists():
            for path in (layout.model_weights, layout.model_config, layout.metrics):
                if not path.is_file():
                    raise InvalidInput(f"the job ended well but left no {path.relative_to(layout.base)}")
            spec = _read_json(folder / "job.json")
            prefix = f"{spec['output_prefix'].rstrip('/')}/{spec['job_name']}/output"
            model_key, output_key = f"{prefix}/model.tar.gz", f"{prefix}/output.tar.gz"
            model_digest = self._upload(folder, layout.model, model_key)
            self._upload(folder, layout.output_data, output_key)
            supervisor.write_json(
                done, {"model_key": model_key, "model_digest": model_digest, "output_key": output_key}
            )
            shutil.rmtree(layout.checkpoints, ignore_errors=True)
        results: dict[str, Any] = _read_json(done)
        return results | {"metrics": _read_json(layout.metrics)}

    def _upload(self, folder: Path, source: Path, key: str) -> str:
        """Packs a folder into one object and gives the SHA-256 of its bytes."""
        archive = folder / f".{source.name}.{os.getpid()}.tar.gz"
        try:
            container.pack(source, archive)
            with archive.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._objects.put_file(key, archive)
        finally:
            archive.unlink(missing_ok=True)
        return digest


def _outcome(folder: Path) -> dict[str, Any] | None:
    """How the job ended, or None while it has not. A stop request settles a job that nobody runs."""
    try:
        outcome: dict[str, Any] = _read_json(folder / "exit.json")
    except FileNotFoundError:
        if (folder / "stop").exists() and not _is_running(folder):
            return {"state": "stopped", "failure_reason": None}
        return None
    return outcome


def _give_up(folder: Path) -> bool:
    """Declares a job failed that was killed again and again without getting on; out of memory looks like that."""
    records = [
        _read_record(folder, number) for number in supervisor.attempt_numbers(folder)[-MAX_KILLS_WITHOUT_PROGRESS:]
    ]
    # Attempts whose end nobody saw (exit code None) were killed together with their supervisor: not the job's own
    # fault.
    killed = [record for record in records if record["exit_code"] is not None]
    if len(killed) < MAX_KILLS_WITHOUT_PROGRESS or len({record["began_with"] for record in killed}) > 1:
        return False
    reason = f"killed {len(killed)} times without progress, last with exit code {killed[-1]['exit_code']}; is the memory too small?"
    supervisor.write_json(folder / "exit.json", {"state": "failed", "failure_reason": reason})
    return True


def _take_lock(folder: Path) -> int | None:
    """Takes the run lock, or gives None when the job runs. Asked a few times, because `_is_running` holds it for a
    moment.
    """
    lock_fd = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(10):
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return lock_fd
    os.close(lock_fd)
    return None


def _is_running(folder: Path) -> bool:
    """Whether a supervisor or job holds the run lock."""
    try:
        lock_fd = os.open(folder / "run.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who ask at once do not take each other for the job.
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock_fd)
    return False


def _attempts(folder: Path, *, running: bool) -> tuple[Attempt, ...]:
    numbers = supervisor.attempt_numbers(folder)
    attempts = []
    for number in numbers:
        record = _read_record(folder, number)
        ended_at = record["ended_at"]
        if ended_at is None and not (running and number == numbers[-1]):
            ended_at = _last_seen(folder, number, started_at=record["started_at"])
        attempts.append(
            Attempt(
                number=number,
                started_at=_utc(record["started_at"]),
                ended_at=_utc(ended_at) if ended_at is not None else None,
                exit_code=record["exit_code"],
            )
        )
    return tuple(attempts)


def _last_seen(folder: Path, number: int, *, started_at: float) -> float:
    """When an attempt that nobody saw end last gave a sign of life, Unix seconds."""
    signs = [started_at]
    for suffix in ("alive", "log"):
        path = supervisor.attempt_file(folder, number, suffix)
        if path.exists():
            signs.append(path.stat().st_mtime)
    return max(signs)


def _billable_s(attempts: tuple[Attempt, ...], *, now: datetime) -> float:
    return round(sum(((attempt.ended_at or now) - attempt.started_at).total_seconds() for attempt in attempts), 3)


def _lines(folder: Path) -> Iterator[str]:
    for number in supervisor.attempt_numbers(folder):
        path = supervisor.attempt_file(folder, number, "log")
        if path.exists():
            with path.open(errors="replace") as file:
                for line in file:
                    yield line.rstrip("\n")


def _last_record(folder: Path) -> Mapping[str, Any]:
    numbers = supervisor.attempt_numbers(folder)
    return _read_record(folder, numbers[-1]) if numbers else {}


def _read_record(folder: Path, number: int) -> dict[str, Any]:
    record: dict[str, Any] = _read_json(supervisor.attempt_file(folder, number, "json"))
    return record


def _is_alive(record: Mapping[str, Any], who: str) -> bool:
    identity = record.get(who)
    return identity is not None and supervisor.identify(identity["pid"]) == identity


def _signal_job(folder: Path, number: signal.Signals) -> None:
    record = _last_record(folder)
    if _is_alive(record, "job"):
        try:
            os.kill(record["job"]["pid"], number)
        except ProcessLookupError:
            return


def _plain(spec: JobSpec) -> dict[str, Any]:
    return {
        "job_name": spec.job_name,
        "hyperparameters": dict(spec.hyperparameters),
        "channels": dict(spec.channels),
        "output_prefix": spec.output_prefix,
        "environment": dict(spec.environment),
    }


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


@contextmanager
def _out_of_space_is_ours(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno not in _NO_SPACE:
            raise
        raise StorageFull(f"no space left for job folder {folder}; free some and run again") from exc
