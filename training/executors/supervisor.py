"""A tiny process that watches one attempt of a local job: `python -m training.executors.supervisor FOLDER LOCK_FD
GRACE_S`.

It outlives the `mlpl` process that started it. It records when the attempt began and ended, passes a stop request on as
SIGTERM and, after the grace, SIGKILL, and writes `exit.json` when the job has an outcome. It and the job hold the same
inherited file lock, so the lock tells whether either is alive, whoever was killed. Standard library only: it stays
small.

Files of a job folder that it knows: `stop` (a request to stop), `exit.json`, `ml/output/failure`, and per attempt
`attempts/NNNN.json`, `attempts/NNNN.log` and `attempts/NNNN.alive`, which is touched while the supervisor lives.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from training.contract import EXIT_COMPLETED, EXIT_STOPPED, Layout

LOOK_INTERVAL_S = 0.2
ALIVE_INTERVAL_S = 1.0
NICENESS = 5
"""A training shares its machine with the web UI."""


def main() -> int:
    """Detaches from the caller once the attempt is on record, then watches the job to its end."""
    folder, lock_fd, grace_s, command = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    number = len(attempt_numbers(folder)) + 1
    record: dict[str, Any] = {
        "number": number,
        "started_at": time.time(),
        "began_with": newest_checkpoint(folder),
        "supervisor": None,
        "job": None,
        "ended_at": None,
        "exit_code": None,
    }
    attempt_file(folder, number, "json").parent.mkdir(exist_ok=True)
    write_json(attempt_file(folder, number, "json"), record)
    if os.fork():
        os._exit(0)  # The caller waits for this, and so gets no zombie when the job ends.
    os.setsid()
    os.nice(NICENESS)
    Watch(folder, record, command=command, lock_fd=lock_fd, grace_s=grace_s).run()
    return 0


class Watch:
    """One attempt from start to end."""

    def __init__(
        self, folder: Path, record: dict[str, Any], *, command: list[str], lock_fd: int, grace_s: float
    ) -> None:
        """`record` is what `attempts/NNNN.json` holds, `command` what the job is."""
        self._folder = folder
        self._record = record
        self._command = command
        self._lock_fd = lock_fd
        self._grace_s = grace_s
        self._told_to_end = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def run(self) -> None:
        """Starts the job, waits for its end, writes down what came of it."""
        with attempt_file(self._folder, self._record["number"], "log").open("ab") as output:
            job = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lock_fd,),
            )
        self._record |= {"supervisor": identify(os.getpid()), "job": identify(job.pid)}
        self._save()
        exit_code = self._wait(job)
        self._record |= {"ended_at": time.time(), "exit_code": exit_code}
        self._save()
        outcome = judge(exit_code, stop_requested=(self._folder / "stop").exists(), failure=read_failure(self._folder))
        if outcome is not None:
            write_json(
                self._folder / "exit.json", outcome | {"exit_code": exit_code, "ended_at": self._record["ended_at"]}
            )

    def _wait(self, job: subprocess.Popen[bytes]) -> int:
        alive = attempt_file(self._folder, self._record["number"], "alive")
        alive_at, asked_at = 0.0, None
        while True:
            try:
                return job.wait(timeout=LOOK_INTERVAL_S)
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            if now - alive_at >= ALIVE_INTERVAL_S:
                alive.touch()
                alive_at = now
            if asked_at is None and (self._told_to_end or (self._folder / "stop").exists()):
                job.terminate()
                asked_at = now
            elif asked_at is not None and now - asked_at >= self._grace_s:
                job.kill()

    def _save(self) -> None:
        write_json(attempt_file(self._folder, self._record["number"], "json"), self._record)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._told_to_end = True


def judge(exit_code: int, *, stop_requested: bool, failure: str | None) -> dict[str, Any] | None:
    """The outcome that an exit code means, or None when the job can go on from its checkpoints.

    Args:
        exit_code: Negative for a signal.
        stop_requested: Somebody asked the job to stop.
        failure: Content of `output/failure`.
    """
    if exit_code == EXIT_COMPLETED:
        return {"state": "completed", "failure_reason": None}
    killed = exit_code < 0 or exit_code == EXIT_STOPPED
    if stop_requested and killed:
        return {"state": "stopped", "failure_reason": None}
    if killed:
        return None
    return {"state": "failed", "failure_reason": failure or f"the job ended with exit code {exit_code}; see its log"}


def attempt_file(folder: Path, number: int, suffix: str) -> Path:
    """Where a file of an attempt is."""
    return folder / "attempts" / f"{number:04d}.{suffix}"


def attempt_numbers(folder: Path) -> list[int]:
    """Attempts on record, ascending."""
    return sorted(int(path.stem) for path in (folder / "attempts").glob("[0-9][0-9][0-9][0-9].json"))


def newest_checkpoint(folder: Path) -> str | None:
    """Name of the checkpoint an attempt would go on from; two attempts with the same one made no progress."""
    names = sorted(path.name for path in Layout(base=folder / "ml").checkpoints.glob("step-*"))
    return names[-1] if names else None


def read_failure(folder: Path) -> str | None:
    """The job's own line about why it failed."""
    try:
        return Layout(base=folder / "ml").failure.read_text(errors="replace").strip() or None
    except OSError:
        return None


def identify(pid: int) -> dict[str, int] | None:
    """A process by id and start time, so that a later one with the same id is not taken for it; None when it is
    gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else {"pid": pid, "started": int(fields[19])}


def write_json(path: Path, value: object) -> None:
    """Writes a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
