"""`python -m tests.benchmarks`: every row of the benchmark in one run, with peers beside it on request."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from infra.errors import MlplError
from tests.benchmarks import report, rows
from tests.benchmarks.bench import Bench
from tests.benchmarks.measuring import Row
from tests.benchmarks.peers import runner


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; the exit status is 1 when a group of rows could not be measured."""
    chosen = _parser().parse_args(arguments)
    # Else a server still compiles torch's sources while it is measured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if chosen.quick:
        chosen.rows, chosen.large_rows, chosen.repeats, chosen.encoder = 10_000, 10_000, 10, "small"
        chosen.huge_rows = 20_000
        chosen.images, chosen.peers = 4, False
    with ExitStack() as stack:
        home = chosen.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlpl-benchmark-")))
        bench = Bench(
            home=home.absolute(),
            rows=chosen.rows,
            large_rows=chosen.large_rows,
            huge_rows=chosen.huge_rows,
            repeats=chosen.repeats,
            encoder=chosen.encoder,
            images=chosen.images,
            runs=1 if chosen.quick else 3,
            settle_s=1.0 if chosen.quick else 8.0,
        )
        bench.home.mkdir(parents=True, exist_ok=True)
        try:
            measured, failed = _measure(bench, rows.chosen(chosen.only or []))
        except MlplError as exc:
            print(f"benchmarks: {exc.message}", file=sys.stderr)
            return 1
        if chosen.peers:
            measured = _with_peers(bench, measured, timeout_s=chosen.peer_timeout)
    print(report.table(measured))
    settings = {name: str(value) for name, value in vars(chosen).items() if value is not None}
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(report.as_json(measured, settings=settings), indent=2) + "\n")
    if chosen.png is not None:
        report.picture(measured, chosen.png)
    return 1 if failed else 0


def _measure(bench: Bench, groups: dict[str, rows.Group]) -> tuple[list[Row], bool]:
    measured: list[Row] = []
    failed = False
    for name, group in groups.items():
        began = time.perf_counter()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        try:
            measured += group(bench)
        except Exception as exc:  # The other rows are still worth having; the exit status tells.
            failed = True
            measured.append(Row(key=name, work=name, mlpl=None, unit="", note=f"failed: {type(exc).__name__}: {exc}"))
        print(f"{time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return measured, failed


def _with_peers(bench: Bench, measured: list[Row], *, timeout_s: float) -> list[Row]:
    inputs = rows.write_inputs(bench, bench.home / f"peers-{bench.rows}")
    for peer in runner.PEERS:
        print(f"{peer.name} ...", file=sys.stderr, flush=True)
        wanted = [step for step in peer.steps if any(row.key.partition(".")[0] == step for row in measured)]
        figures, notes = runner.run(
            peer, wanted, inputs=inputs, folder=bench.home / f"peer-{peer.name}-{bench.rows}", timeout_s=timeout_s
        )
        measured = [
            replace(
                row,
                peers=row.peers | ({peer.name: figures[row.key]} if row.key in figures else {}),
                peer_notes=row.peer_notes | ({peer.name: notes[row.key]} if row.key in notes else {}),
            )
            for row in measured
        ]
    return measured


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="frames of the usual fleet (default: 100,000)")
    parser.add_argument(
        "--large-rows", type=int, default=1_000_000, help="frames of the large fleet (default: 1,000,000)"
    )
    parser.add_argument(
        "--huge-rows", type=int, default=10_000_000, help="vectors of the group ten_million (default: 10,000,000)"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="GROUP",
        help=f"one of {', '.join(rows.GROUPS)}, or of {', '.join(rows.ON_REQUEST)}, which run only when named; may be repeated",
    )
    parser.add_argument("--home", type=Path, help="keep the fleets here and use them again; else a temporary folder")
    parser.add_argument("--repeats", type=int, default=200, help="requests a latency is computed from")
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        help="JPEGs of 1080p to ingest; a third as many of 2160p, and of previews to embed",
    )
    parser.add_argument("--encoder", choices=("vit-b-32", "small"), default="vit-b-32", help="for words and embedding")
    parser.add_argument("--peers", action="store_true", help="run FiftyOne and LightlyStudio on the same vectors")
    parser.add_argument("--peer-timeout", type=float, default=300, help="seconds for each step of a peer")
    parser.add_argument("--quick", action="store_true", help="10,000 rows, no peers: does everything run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write a picture")
    return parser


if __name__ == "__main__":
    sys.exit(main())
