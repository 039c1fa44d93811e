"""The README's six commands, run as they stand there by somebody who has done nothing else before."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from infra.platform import Platform

README = Path(__file__).parents[2] / "README.md"
NEED_MORE = ("mlpl label-studio start", "mlpl serve")
"""A labelling server and a process that stays have tests of their own."""


def commands() -> list[str]:
    section = README.read_text().split("## The loop in six commands")[1].split("\n## ")[0]
    lines = re.findall(r"^    (mlpl .+?)(?:\s{2,}#.*)?$", section, flags=re.MULTILINE)
    assert len(lines) == 6
    return [command.strip() for line in lines for command in line.split("&&")]


def test_the_six_commands_work_in_their_order(platform: Platform, simulated_frames: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MLPL_")}
    environment = plain | platform.settings.as_environment() | {"MLPL_ENCODER": "small"}
    said = {}
    for command in commands():
        if command.startswith((*NEED_MORE, "mlpl trace")):
            continue
        arguments = shlex.split(command.replace("/data/fleet", str(simulated_frames)).replace(" --push", ""))[1:]
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        said[" ".join(arguments[:2])] = done.stdout
    found = next(text for name, text in said.items() if name.startswith("search"))
    assert "\n1 " in found or "\n 1 " in found  # Words find something at once.
    assert "is planned" in said["batch create"]
