"""What a replay shows: figures with intervals, as data, as a picture and as one page that works offline."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selection.planning.plan import RANDOM
from service.simulation import curves
from service.simulation.curves import Curves, Estimate
from service.simulation.replay import ALL_LABELS, NO_LABELS, Options, Replay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("simulation.json", "simulation.png", "simulation.html")


def summarise(replay: Replay, options: Options) -> dict[str, Any]:
    """The figures of a replay.

    Returns:
        JSON values. `strategies` holds for each its curve (mean share of the full-data metric over the seeds with its interval) and for
        each goal the labels needed and their ratio to those of `random`; None stands for not reached, where `reached` says so. `is_bound`:
        random itself did not get there, so the ratio is below the value.
    """
    full: dict[int, float] = {}
    none: dict[int, float] = {}
    points: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for one in replay.rounds:
        if one.strategy == ALL_LABELS:
            full[one.seed] = one.metric
        elif one.strategy == NO_LABELS:
            none[one.seed] = one.metric
        else:
            points[one.strategy][one.seed][one.labels] = one.metric
    by_name = {
        name: curves.align(
            [
                {0: none[seed] / full[seed]} | {count: metric / full[seed] for count, metric in sorted(line.items())}
                for seed, line in sorted(by_seed.items())
            ]
        )
        for name, by_seed in points.items()
    }
    reference = by_name.get(RANDOM)
    pool = [one.labels for one in replay.rounds if one.strategy == ALL_LABELS]
    return {
        **replay.fleet,
        "classes": list(replay.classes),
        "learner": options.learner,
        "metric": "macro_average_precision",
        "batch": options.batch,
        "rounds": options.rounds,
        "seeds": options.seeds,
        "labels_of_full_data": round(sum(pool) / len(pool), 1),
        "full_data_metric": _spread(list(full.values())),
        "no_label_metric": _spread(list(none.values())),
        "strategies": [_strategy(name, own, reference) for name, own in by_name.items()],
    }


def write(summary: dict[str, Any], out: Path) -> list[Path]:
    """Writes `simulation.json`, `.png` and `.html` into the folder."""
    paths = [out / name for name in FILES]
    figure = _figure(summary)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    contents = [text.encode(), png.getvalue(), page(summary, png.getvalue()).encode()]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def page(summary: dict[str, Any], png: bytes) -> str:
    """One HTML page with the picture inside."""
    header = "".join(f"<th>{html.escape(name)}</th>" for name in table_header())
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in table_rows(summary)
    )
    shares = ", ".join(f"{html.escape(name)} {share:.1%}" for name, share in summary["class_shares"].items())
    picture = base64.b64encode(png).decode()
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Labels needed</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }}
table {{ border-collapse: collapse; width: 100% }} th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd }}
img {{ width: 100% }} small {{ color: #555 }}
</style>
<h1>Labels needed</h1>
<p>{html.escape(sentence(summary))}</p>
<p>Frames that show each class: {shares}.</p>
<img alt="Learning curves" src="data:image/png;base64,{picture}">
<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>
<p><small>Labels needed are read off the mean curve over the seeds. Brackets hold 95 % bootstrap intervals over the seeds. A ratio below 1
means fewer labels than random; "below" stands where random never got there.
Full data: the same learner with all labels of the pool, {summary["full_data_metric"]["mean"]:.3f} on average.
A mean curve is 0 labels at {summary["no_label_metric"]["mean"]:.3f}, which is chance.</small></p>
</html>
"""


def sentence(summary: dict[str, Any]) -> str:
    """What was simulated, in one line."""
    return (
        f"{summary['count']} frames ({summary['frames']}), classes {', '.join(summary['classes'])}; {summary['learner']} learner; "
        f"{summary['rounds']} rounds of {summary['batch']} labels, {summary['seeds']} seeds; "
        f"full data is {summary['labels_of_full_data']:.0f} labels"
    )


def table_header() -> list[str]:
    """Column names of `table_rows`."""
    goals = [f"{goal:.0%}" for goal in curves.GOALS]
    return ["strategy", *(f"labels to {goal}" for goal in goals), *(f"of random's, {goal}" for goal in goals), "last"]


def table_rows(summary: dict[str, Any]) -> list[list[str]]:
    """One row a strategy: labels to each goal, ratios to random, and the share of the full-data metric at the last point."""
    rows = []
    for one in summary["strategies"]:
        goals = one["goals"].values()
        labels = [_shown(goal["labels"], digits=0) if goal["reached"] else "not reached" for goal in goals]
        ratios = [_shown(goal["ratio_to_random"], digits=2) for goal in goals]
        rows.append([one["name"], *labels, *ratios, f"{one['curve'][-1]['share']:.3f}"])
    return rows


def _strategy(name: str, own: Curves, reference: Curves | None) -> dict[str, Any]:
    low_P, high_P = curves.mean_intervals(own.share_SP)
    mean_P = own.share_SP.mean(axis=0)
    goals = {}
    for goal in curves.GOALS:
        labels = curves.reached(own, goal=goal)
        comparable = reference is not None and len(reference.share_SP) == len(own.share_SP)
        ratio = curves.ratio(own, reference, goal=goal) if comparable and reference is not None else None
        goals[f"{goal:.2f}"] = {
            "reached": labels.value is not None and math.isfinite(labels.value),
            "labels": _plain(labels),
            "ratio_to_random": _plain(ratio) if ratio else None,
        }
    return {
        "name": name,
        "seeds": len(own.share_SP),
        "curve": [
            {"labels": int(labels), "share": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}
            for labels, mean, low, high in zip(
                own.labels_P.tolist(), mean_P.tolist(), low_P.tolist(), high_P.tolist(), strict=True
            )
        ],
        "goals": goals,
    }


def _plain(estimate: Estimate) -> dict[str, Any]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    finite = {
        name: None if value is None or not math.isfinite(value) else round(value, 3) for name, value in values.items()
    }
    return {**finite, "is_bound": estimate.is_bound}


def _shown(estimate: dict[str, Any] | None, *, digits: int) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    low, high = (("-" if estimate[end] is None else f"{estimate[end]:.{digits}f}") for end in ("low", "high"))
    return f"{'below ' if estimate['is_bound'] else ''}{estimate['value']:.{digits}f} [{low}, {high}]"


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "mean": round(sum(values) / len(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def _figure(summary: dict[str, Any]) -> Figure:
    # Drawn without pyplot, which would keep the figure and look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for one in summary["strategies"]:
        labels = [point["labels"] for point in one["curve"]]
        (line,) = axes.plot(labels, [point["share"] for point in one["curve"]], marker=".", label=one["name"])
        low, high = ([point[end] for point in one["curve"]] for end in ("low", "high"))
        axes.fill_between(labels, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    for goal in curves.GOALS:
        axes.axhline(goal, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("labels")
    axes.set_ylabel("macro average precision, share of full data")
    axes.legend(loc="lower right", fontsize=8)
    axes.grid(alpha=0.2)
    return figure
