"""The job as the platform runs it: a process with a base folder, signals and an exit code."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from training.contract import Layout

ROOT = Path(__file__).resolve().parents[3]
STEPS = 60


@contextmanager
def job(layout: Layout, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "MLPL_ML_DIR": str(layout.base),
        "SM_NUM_CPUS": "2",
        "PYTHONHASHSEED": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "training.job", *arguments],
        env=environment,
        cwd=layout.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(layout: Layout) -> tuple[int, list[dict[str, Any]]]:
    with job(layout, "train") as process:
        output, _ = process.communicate()
    return process.returncode, [json.loads(line) for line in output.splitlines()]


def interrupt(layout: Layout, number: signal.Signals) -> int:
    """Sends the signal once a checkpoint from the middle of the training is there."""
    with job(layout, "train") as process:
        while not any(layout.checkpoints.glob("step-*")):
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate()
    return process.returncode


def weights_digest(layout: Layout) -> str:
    return hashlib.sha256(layout.model_weights.read_bytes()).hexdigest()


@pytest.mark.timeout(900)  # Five processes that import torch each.
def test_an_interrupted_training_ends_with_the_same_bits(kit: Any, tmp_path: Path) -> None:
    # More frames than steps, and a prime number of them: no step ends where an epoch ends, so every kill is inside one.
    layouts = [
        kit.write_job(
            tmp_path / name,
            kit.scenes(67, 6),
            kit.hyperparameters(min_steps=STEPS, checkpoint_interval_s=interval_s, threads=0, seed=3),
        )
        for name, interval_s in (("whole", 1000), ("terminated", 0.15), ("killed", 0.15))
    ]
    whole, terminated, killed = layouts
    exit_code, events = finish(whole)
    assert exit_code == 0, events
    assert events[0]["threads"] == 2

    assert interrupt(terminated, signal.SIGTERM) == 143
    assert not terminated.failure.exists()
    assert not terminated.model_weights.exists()
    assert interrupt(killed, signal.SIGKILL) == -signal.SIGKILL
    for layout in (terminated, killed):
        exit_code, events = finish(layout)
        assert exit_code == 0, events
        metrics = json.loads(layout.metrics.read_text())
        assert 0 < metrics["train"]["resumed_from"] < STEPS
        assert weights_digest(layout) == weights_digest(whole)
        assert metrics["test"] == json.loads(whole.metrics.read_text())["test"]
        assert layout.predictions.read_bytes() == whole.predictions.read_bytes()
        assert layout.model_config.read_bytes() == whole.model_config.read_bytes()


def test_sigterm_before_the_first_step_ends_the_job_at_once(kit: Any, tmp_path: Path) -> None:
    layout = kit.write_job(tmp_path, kit.scenes(8, 0), kit.hyperparameters(min_steps=100_000))
    with job(layout) as process:
        time.sleep(1.0)  # Python is up, torch is being imported.
        process.terminate()
        process.communicate()
    assert process.returncode in (143, -signal.SIGTERM)
    assert not layout.failure.exists()


def test_a_failure_is_one_line_and_exit_code_1(kit: Any, tmp_path: Path) -> None:
    layout = kit.write_job(tmp_path, kit.scenes(4, 2), kit.hyperparameters(architecture="no_such_net"))
    exit_code, events = finish(layout)
    assert exit_code == 1
    text = layout.failure.read_text()
    assert text.startswith("torchvision has no classifier 'no_such_net'")
    assert "\n" not in text
    assert events[-1] == {"event": "failed", "time": events[-1]["time"], "reason": text}


def test_wrong_usage(tmp_path: Path) -> None:
    with job(Layout(base=tmp_path), "serve") as process:
        output, _ = process.communicate()
    assert process.returncode == 2
    assert output.startswith("usage:")


def test_an_old_failure_does_not_outlive_a_good_run(kit: Any, tmp_path: Path) -> None:
    layout = kit.write_job(tmp_path, kit.scenes(4, 2), kit.hyperparameters())
    layout.output.mkdir(exist_ok=True)
    layout.failure.write_text("of an earlier attempt")
    exit_code, _ = finish(layout)
    assert exit_code == 0
    assert not layout.failure.exists()
