"""Runs another product's script in an environment of its own, step by step, each with a time limit.

The scripts import nothing of ours; they read the same vectors and attributes from files and print one JSON object, figures by the row's key.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from infra import mongod

HERE = Path(__file__).parent
_EARLIER = "measured in the earlier run that made this fleet"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another product.

    Attributes:
        requirement: What its environment is made of.
        script: Takes a step's name, the input files and a folder of its own.
        steps: In this order, since later steps work on what earlier ones stored.
        needs: Steps that must have run, though nobody asks for their figures.
        environment: Variables that keep it from reporting its use to its makers.
        wants_mongod: Whether it is given a mongod of its own, the one that comes with MLPL: its own package downloads one while installing.
    """

    name: str
    requirement: str
    script: Path
    steps: tuple[str, ...]
    needs: tuple[str, ...]
    environment: Mapping[str, str]
    wants_mongod: bool = False


PEERS = (
    Peer(
        name="FiftyOne",
        requirement="fiftyone==1.22.1",
        script=HERE / "fiftyone_script.py",
        steps=("register", "store", "cold_start", "nearest", "facets", "duplicates", "diverse"),
        needs=("register", "store"),
        environment={"FIFTYONE_DO_NOT_TRACK": "true"},
        wants_mongod=True,
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
    with ExitStack() as stack:
        environment = dict(peer.environment)
        if peer.wants_mongod:
            environment["FIFTYONE_DATABASE_URI"] = stack.enter_context(mongod.embedded(folder / "database"))
        _all_steps(peer, wanted, environment, figures, notes, inputs=inputs, folder=folder, timeout_s=timeout_s)
    return figures, notes


def _all_steps(
    peer: Peer,
    wanted: Sequence[str],
    environment: Mapping[str, str],
    figures: dict[str, float],
    notes: dict[str, str],
    *,
    inputs: Mapping[str, Path],
    folder: Path,
    timeout_s: float,
) -> None:
    kept = folder / "figures.json"  # A step that stored something is not run again in the same folder.
    done: dict[str, dict[str, dict[str, float | str]]] = json.loads(kept.read_text()) if kept.is_file() else {}
    steps = [step for step in peer.steps if step in wanted or (wanted and step in peer.needs)]
    for step in steps:
        earlier = done.get(step) if step in peer.needs else None
        answer = earlier or _step(peer, step, environment, inputs=inputs, folder=folder, timeout_s=timeout_s)
        print(f"  {step}: {answer}", file=sys.stderr, flush=True)
        figures |= {key: float(value) for key, value in answer["figures"].items()}
        notes |= {key: str(value) for key, value in answer["notes"].items()}
        if earlier is not None:
            notes |= {key: "; ".join(filter(None, [notes.get(key), _EARLIER])) for key in answer["figures"]}
        if step in peer.needs:
            if not answer["figures"]:
                break
            done[step] = answer
            kept.write_text(json.dumps(done))


def _step(
    peer: Peer, step: str, variables: Mapping[str, str], *, inputs: Mapping[str, Path], folder: Path, timeout_s: float
) -> dict[str, dict[str, float | str]]:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = ["uv", "run", "--no-project", "--python", version, "--with", peer.requirement, "python", str(peer.script)]
    environment = os.environ | dict(variables)
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
