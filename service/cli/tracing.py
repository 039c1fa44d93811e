"""The trace command."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from service.cli.context import Json, platform, show


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module."""
    app.command()(trace)


def trace(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Of a frame, label, batch, dataset version, workflow or model.", show_default=False
        ),
    ],
    frames: Annotated[
        int | None, typer.Option(min=1, help="At most this many frames of a dataset version or batch.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Shows where something came from and what it became."""
    from service import lineage

    with platform() as opened:
        found = lineage.trace(opened.database, identifier, frame_limit=frames)
    show(found, as_json=as_json, text=lambda: trace_text(found))


def trace_text(found: dict[str, Any]) -> str:
    """The graph in words, from the data to the models."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for node in found["nodes"]:
        by_kind.setdefault(node["kind"], []).append(node)
    for kind in ("batch", "dataset", "workflow", "model"):
        by_kind.get(kind, []).sort(key=lambda node: node["created_at"])
    lines = [f"{found['kind']} {found['id']}"]
    if by_kind.get("frame"):
        lines += _frames(by_kind["frame"])
    if by_kind.get("label"):
        lines += _labels(by_kind["label"])
    selected = [edge for edge in found["edges"] if edge["kind"] == "selected"]
    for batch in by_kind.get("batch", []):
        reasons = [edge for edge in selected if edge["to"] == batch["id"]]
        example = f'; for example "{reasons[0]["reason"]}"' if reasons else ""
        ranked = f", ranked by {batch['model_id']}" if batch["model_id"] else ""
        lines.append(f"  batch     {batch['id']}: {len(reasons)} of these frames{ranked}{example}")
    for version in by_kind.get("dataset", []):
        counts = ", ".join(f"{count} {split}" for split, count in sorted(version["counts"].items(), reverse=True))
        lines.append(f"  dataset   {version['id']}: {counts}; {version['split_note']}")
    for workflow in by_kind.get("workflow", []):
        lines.append(
            f"  workflow  {workflow['id']}: {workflow['state']}, {_code(workflow['code'])}, {_software(workflow['environment'])}"
        )
    for model in by_kind.get("model", []):
        metric = "no figure" if model["metric"] is None else f"{model['metric_name']} {model['metric']:.4f}"
        lines.append(f"  model     {model['id']}: {metric}; {model['promotion']['reason']}")
        lines += [
            f"            from {one['source']} (SHA-256 {one['digest'][:16]}), {one['frames']} frames, {one['imported_at']:%F %T}"
            for one in model["imports"]
        ]
    if found["frames_left_out"]:
        lines.append(f"  {found['frames_left_out']} frames are left out; without --frames all are shown")
    return "\n".join(lines)


def _frames(nodes: list[dict[str, Any]]) -> list[str]:
    if len(nodes) == 1:
        node = nodes[0]
        where = ", ".join(str(node[name]) for name in ("site", "drive", "camera", "captured_at") if node[name])
        return [f"  frame     {node['id']}: {node['width']}x{node['height']} {where} ({node['source']})"]
    drives = Counter(node["drive"] for node in nodes if node["drive"])
    if not drives:
        return [f"  frames    {len(nodes)}, of no known drive"]
    (most, _), known = drives.most_common(1)[0], drives.total()
    unknown = f" ({len(nodes) - known} of no known drive)" if known < len(nodes) else ""
    return [f"  frames    {len(nodes)} from {_plural(len(drives), 'drive')}, most from {most}{unknown}"]


def _labels(nodes: list[dict[str, Any]]) -> list[str]:
    if len(nodes) <= 3:
        return [
            f"  label     {n['id']}: revision {n['revision']}, "
            + ("withdrawn" if n["tombstone"] else ", ".join(n["value"]) or "none of the classes")
            + f", by {n['annotator']}"
            for n in nodes
        ]
    people = Counter(node["annotator"] for node in nodes)
    said = ", ".join(f"{name} {count}" for name, count in people.most_common(3))
    return [f"  labels    {len(nodes)} by {_plural(len(people), 'person', 'people')} ({said})"]


def _plural(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _code(code: dict[str, Any] | None) -> str:
    if not code:
        return "not started"
    if not code["commit"]:
        return f"code {code['version']}"
    return f"code {code['commit'][:12]}{'' if code['clean'] else ' with changed files'}"


def _software(environment: dict[str, Any] | None) -> str:
    if not environment:
        return "no environment yet"
    return f"Python {environment['python']}, torch {environment['packages'].get('torch', '-')}"
