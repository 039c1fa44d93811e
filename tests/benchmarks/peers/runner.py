"""Runs another product's script in an environment of its own, step by step, each with a time limit.

The scripts import nothing of ours; they read the same vectors and attributes from files and print one JSON object, figures by the row's key.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another product.

    Attributes:
        requirement: What its environment is made of.
        script: Takes a step's name, the input files and a folder of its own.
        steps: In this order, since later steps work on what earlier ones stored.
        needs: Steps that must have run, though nobody asks for their figures.
        environment: Variables that keep it from reporting its use to its makers and its data in its folder.
    """

    name: str
    requirement: str
    script: Path
    steps: tuple[str, ...]
    needs: tuple[str, ...]
    environment: Mapping[str, str]


PEERS = (
    Peer(
        name="FiftyOne",
        requirement="fiftyone==1.22.1",
        script=HERE / "fiftyone_script.py",
        steps=("register", "store", "cold_start", "nearest", "facets", "duplicates", "diverse"),
        needs=("register", "store"),
        environment={"FIFTYONE_DO_NOT_TRACK": "true", "FIFTYONE_DATABASE_DIR": "{folder}/db"},
    ),
    Peer(
        name="LightlyStudio",
        requirement="lightly-studio==1.2.0",
        script=HERE / "lightly_studio_script.py",
        steps=("register", "store", "cold_start", "nearest", "facets", "duplicates", "diverse"),
        needs=("register", "store"),
        environment={"LIGHTLY_STUDIO_ANALYTICS_ENABLED": "false", "HF_HUB_OFFLINE": "1"},
    ),
)


def run(
    peer: Peer, wanted: Sequence[str], *, inputs: Mapping[str, Path], folder: Path, timeout_s: float
) -> tuple[dict[str, float], dict[str, str]]:
    """Runs the wanted steps and those they need.

    Returns:
        Figures and notes, by the key of the row.
    """
    figures: dict[str, float] = {}
    notes: dict[str, str] = {}
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "figures.json"  # A step that stored something is not run again in the same folder.
    done: dict[str, dict[str, dict[str, float | str]]] = json.loads(kept.read_text()) if kept.is_file() else {}
    steps = [step for step in peer.steps if step in wanted or (wanted and step in peer.needs)]
    for step in steps:
        answer = done.get(step) if step in peer.needs else None
        if answer is None:
            answer = _step(peer, step, inputs=inputs, folder=folder, timeout_s=timeout_s)
        print(f"  {step}: {answer}", file=sys.stderr, flush=True)
        figures |= {key: float(value) for key, value in answer["figures"].items()}
        notes |= {key: str(value) for key, value in answer["notes"].items()}
        if step in peer.needs:
            if not answer["figures"]:
                break
            done[step] = answer
            kept.write_text(json.dumps(done))
    return figures, notes


def _step(
    peer: Peer, step: str, *, inputs: Mapping[str, Path], folder: Path, timeout_s: float
) -> dict[str, dict[str, float | str]]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = ["uv", "run", "--no-project", "--python", version, "--with", peer.requirement, "python", str(peer.script)]
    environment = os.environ | {name: value.format(folder=folder) for name, value in peer.environment.items()}
    log = folder / f"{step}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [*command, step, str(inputs["vectors"]), str(inputs["frames"]), str(folder)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return {"figures": {}, "notes": {step: f"not done after {timeout_s:.0f} s"}}
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if process.returncode != 0 or not lines:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return {"figures": {}, "notes": {step: f"failed ({process.returncode}): {last[0][:200]}"}}
    answer = json.loads(lines[-1])
    return {"figures": answer["figures"], "notes": answer.get("notes", {})}
