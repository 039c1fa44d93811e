"""Entry point of the training container: `python -m training.job [train]`.

What the platform sees:

- exit 0: the model is in `model/`, figures in `output/data/`;
- exit 1: one line in `output/failure` says why; for an unexpected error the traceback is in the log;
- exit 143: SIGTERM came, the state is in `checkpoints/` and `output/failure` is absent. Started again on the same
folders the job goes on from there and ends with the weights that the uninterrupted job would have had. SageMaker
reports a job that it stopped as Stopped, whatever the code; any other sender of SIGTERM must not take half a training
for a whole one, hence not 0; - standard output: one JSON object a line (`event` first), which
`contract.METRIC_DEFINITIONS` can be applied to.

A container must start it in exec form (`ENTRYPOINT ["python", "-m", "training.job"]`), or SIGTERM reaches a shell
instead.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from training.contract import (
    BASE_VARIABLE,
    DEFAULT_BASE,
    EXIT_COMPLETED,
    EXIT_FAILED,
    EXIT_STOPPED,
    FAILURE_CHARACTERS,
    ContractError,
    Layout,
)


class StopSignal:
    """Remembers that SIGTERM came; the work looks at it where it can stop cleanly."""

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def check(self) -> None:
        """Raises `fitting.Stopped` once the signal has come."""
        if self.came:
            from training.job.fitting import Stopped

            raise Stopped

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.came = True


def main() -> int:
    """Runs the job under the base folder and turns its outcome into files and an exit code."""
    stop = StopSignal()
    if sys.argv[1:] not in ([], ["train"]):
        print("usage: python -m training.job [train]", file=sys.stderr)
        return 2
    layout = Layout(base=Path(os.environ.get(BASE_VARIABLE, DEFAULT_BASE)))
    layout.failure.unlink(missing_ok=True)

    # Read when torch is loaded. Threads that spin while they wait make a training on shared cores many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The handler above is in place before these imports, which take seconds.
    from PIL import Image

    from training.job.fitting import Stopped
    from training.job.run import run

    Image.MAX_IMAGE_PIXELS = None  # Ingest has refused what is too large.
    try:
        run(layout, environment=os.environ, log=log, check_stop=stop.check)
    except Stopped:
        log("stopped", reason="SIGTERM")
        return EXIT_STOPPED
    except ContractError as exc:
        return _fail(layout, str(exc))
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            traceback.print_exc()
        return _fail(layout, f"{exc.strerror or exc}: {exc.filename or layout.base}")
    except Exception as exc:
        traceback.print_exc()
        return _fail(layout, f"unexpected {type(exc).__name__}: {exc}; the log has the traceback")
    return EXIT_COMPLETED


def log(event: str, **fields: Any) -> None:
    """Prints one line of JSON to standard output."""
    print(log_line(event, **fields), flush=True)


def log_line(event: str, **fields: Any) -> str:
    """The line for an event: `event` and `time` (Unix seconds) first."""
    return json.dumps({"event": event, "time": round(time.time(), 3), **fields})


def _fail(layout: Layout, reason: str) -> int:
    line = " ".join(reason.split())[:FAILURE_CHARACTERS]
    log("failed", reason=line)
    try:
        layout.output.mkdir(parents=True, exist_ok=True)
        layout.failure.write_text(line)
    except OSError as exc:
        print(f"cannot write {layout.failure}: {exc}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
