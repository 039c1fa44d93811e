"""The report: a table for people, JSON for programs, and a picture."""

from __future__ import annotations

import platform as machine
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import Row


def table(rows: Sequence[Row]) -> str:
    """One line a row: target, measured, reached, then the floor and each peer with how many times better MLPL is."""
    from service.cli.context import table as columns

    names = sorted({name for row in rows for name in (*row.peers, *row.peer_notes)})
    header = ["work", "MLPL", "unit", "target", "reached", "floor", "x floor"]
    for name in names:
        header += [name, f"x {name}"]
    lines: list[list[object]] = []
    for row in rows:
        line: list[object] = [
            row.work,
            _number(row.mlpl),
            row.unit,
            _target(row),
            {True: "yes", False: "NO", None: ""}[row.reached],
            _number(row.floor),
            _ratio(row, row.floor),
        ]
        for name in names:
            line += [_number(row.peers.get(name)), _ratio(row, row.peers.get(name))]
        lines.append(line)
    notes = [f"{row.work}: {row.note}" for row in rows if row.note]
    notes += [f"{row.work}, {name}: {note}" for row in rows for name, note in row.peer_notes.items()]
    explained = "x: how many times better MLPL is than the column before it, in this run."
    return "\n".join([columns(header, lines), "", explained, *notes])


def as_json(rows: Sequence[Row], *, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "settings": settings,
        "rows": [
            asdict(row)
            | {
                "reached": row.reached,
                "times_better_than_floor": row.times_better_than(row.floor),
                "times_better_than_peers": {name: row.times_better_than(value) for name, value in row.peers.items()},
            }
            for row in rows
        ],
    }


def picture(rows: Sequence[Row], path: Path) -> None:
    """Bars on a logarithmic scale: each figure as a multiple of the target, so that 1 is the line to reach; shorter is better."""
    from PIL import Image, ImageDraw, ImageFont

    shown = [row for row in rows if row.target and row.mlpl]
    colours = {
        "MLPL": (32, 110, 200),
        "floor": (150, 150, 150),
        "FiftyOne": (230, 130, 40),
        "LightlyStudio": (120, 80, 170),
    }
    font = ImageFont.load_default(size=15)
    left, width, bar, gap, top = 640, 1500, 13, 14, 60
    series = [[("MLPL", row.mlpl), ("floor", row.floor), *sorted(row.peers.items())] for row in shown]
    series = [[(name, value) for name, value in line if value] for line in series]
    height = top + sum(len(line) * bar + gap for line in series) + 30
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    low, high = 0.01, 1000.0

    def across(value: float) -> float:
        import math

        share = math.log(min(max(value, low), high) / low) / math.log(high / low)
        return left + share * (width - left - 90)

    draw.text((10, 8), "Multiples of the target, logarithmic; left of the line is reached", fill="black", font=font)
    for place, (name, colour) in enumerate(colours.items()):
        draw.rectangle((10 + place * 140, 36, 22 + place * 140, 48), fill=colour)
        draw.text((28 + place * 140, 32), name, fill="black", font=font)
    y = top
    for row, line in zip(shown, series, strict=True):
        assert row.target is not None
        draw.text((10, y), row.work[:86], fill="black", font=font)
        for name, value in line:
            multiple = value / row.target if row.sense == "at_most" else row.target / value
            draw.rectangle((left, y, across(multiple), y + bar - 3), fill=colours.get(name, (0, 0, 0)))
            draw.text(
                (across(multiple) + 4, y - 4), f"{_number(value)}", fill="black", font=ImageFont.load_default(size=12)
            )
            y += bar
        y += gap
    line_x = across(1.0)
    draw.line((line_x, top - 6, line_x, height - 20), fill=(200, 0, 0), width=2)
    image.save(path)


def _machine() -> dict[str, Any]:
    import os

    import faiss
    import numpy as np

    model = machine.processor() or machine.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": machine.platform(),
        "python": machine.python_version(),
        "numpy": np.__version__,
        "faiss": faiss.__version__,
    }


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    return f"{'<=' if row.sense == 'at_most' else '>='} {_number(row.target)}"


def _ratio(row: Row, other: float | None) -> str:
    times = row.times_better_than(other)
    return "" if times is None else f"{times:.2g}x" if times < 10 else f"{times:,.0f}x"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
