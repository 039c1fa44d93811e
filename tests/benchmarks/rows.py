"""The rows of the benchmark, in groups that can be asked for by name."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from tests.benchmarks import bench as benches
from tests.benchmarks import compressed, fleet, floor, measuring, mlpl
from tests.benchmarks.bench import CLIP_LIKE, FILTER, ISOTROPIC, Bench
from tests.benchmarks.measuring import Row

K = 50
DUPLICATE_SIMILARITY = 0.985
DIVERSE = 1000
FACET_KEYS = 13
RECALL_QUERIES = 100
WHOLE_TEXT_MS = 51.0
"""What a text takes in ViT-B-32 on 2 cores when all of its positions are computed."""

Group = Callable[[Bench], list[Row]]


def registering(bench: Bench) -> list[Row]:
    """Frames whose digests a manifest carries."""
    facts = list(fleet.all_facts(bench.rows, seed=bench.seed))
    manifest = bench.home / "manifest.parquet"
    fleet.write_manifest(facts, manifest)
    with bench.empty_fleet("register") as platform:
        mlpl_s = measuring.best_s(lambda: mlpl.ingest_manifest(platform, manifest, expected=bench.rows), repeats=1)
    plain = [asdict(one) | {"_id": one.frame_id, "row": row} for row, one in enumerate(facts)]
    with bench.empty_fleet("register_floor") as platform:
        floor_s = measuring.best_s(lambda: platform.database.frames.insert_many(plain, ordered=False), repeats=1)
    return [
        Row(
            key="register",
            work=f"register {bench.rows:,} frames from a Parquet manifest with their digests",
            mlpl=bench.rows / mlpl_s,
            unit="frames/s",
            target=20_000,
            sense="at_least",
            floor=bench.rows / floor_s,
            details={"floor": "one insert_many of the same documents into the same collection"},
        )
    ]


def storing(bench: Bench) -> list[Row]:
    """Vectors that somebody has, until they can be searched."""
    half, query = bench.half_ND, bench.vectors_ND[0]

    def store() -> float:
        with bench.empty_fleet("store") as platform:
            mlpl.register(platform, list(fleet.all_facts(min(bench.rows, 1000), seed=bench.seed)))
            began = time.perf_counter()
            mlpl.store_vectors(platform, half, producer=CLIP_LIKE)
            found = mlpl.first_hit(platform, query, producer=CLIP_LIKE)
            took = time.perf_counter() - began
        if found != 0:
            raise AssertionError(f"frame 0 is nearest to itself, not to {found}")
        return took

    def plain() -> None:
        floor.nearest(floor.flat_index([bench.vectors_ND], dimension=half.shape[1]), query, k=1)

    return [
        Row(
            key="store",
            work=f"store {bench.rows:,} vectors and be searchable",
            mlpl=statistics.median(store() for _ in range(bench.runs)),
            unit="s",
            target=3.0,
            floor=measuring.best_s(plain),
            details={"floor": "FAISS flat in memory, nothing stored"},
        )
    ]


def cold_start(bench: Bench) -> list[Row]:
    """The first answer of a process that has nothing in memory."""
    with bench.fleet(bench.rows) as platform:
        like = fleet.frame_id_of(bench.rows // 2, seed=bench.seed)
        runs = [mlpl.cold_start(platform.settings, like=like, where=FILTER) for _ in range(bench.runs)]
    path = bench.home / "floor.npy"
    np.save(path, bench.vectors_ND)
    query = bench.vectors_ND[0]

    def plain() -> None:
        floor.nearest(floor.flat_index([np.load(path)], dimension=len(query)), query, k=K)

    parts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    return [
        Row(
            key="cold_start",
            work=f"cold start at {bench.rows:,}: columns and index opened, first answer",
            mlpl=parts["first_answer_s"],
            unit="s",
            target=1.0,
            floor=measuring.best_s(plain),
            details=parts | {"floor": "np.load and FAISS flat", "note": "imports and joining the database come on top"},
        )
    ]


def searching(bench: Bench) -> list[Row]:
    """Nearest frames through HTTP, alone and within a filter, and counts, on the usual fleet."""
    index = floor.flat_index([bench.vectors_ND], dimension=bench.vectors_ND.shape[1])
    with bench.fleet(bench.rows) as platform, mlpl.serving(platform.settings) as server:
        return [
            *_nearest_rows(bench, server, bench.rows, index=index, queries_ND=bench.vectors_ND, targets=(5, 10, 12)),
            *_facet_rows(bench, server, platform, bench.rows, target_ms=20),
        ]


def text(bench: Bench) -> list[Row]:
    """Nearest frames to words; what is left when the encoder's own time is taken off, and a repeated question."""
    with bench.fleet(bench.rows) as plain:
        platform = bench.with_encoder(plain)
        encode, producer, dimension = _load_encoder(platform)
        from tests.benchmarks.vectors import ClipLike

        fleet.embed(platform, ClipLike(rows=bench.rows, dimension=dimension, seed=bench.seed), producer=producer)
        mlpl.build_index(platform, producer=producer)
        words = [f"frame number {i} of a wet road at night" for i in range(2 * bench.repeats)]
        with mlpl.serving(platform.settings) as server:

            def ask(text: str) -> bytes:
                return server.get("/api/v1/search", text=text, k=K)

            measuring.settling_ms(lambda i: ask(f"warm {i}"), seconds=bench.settle_s)
            taken = measuring.interleaved_ms(
                {"server": lambda i: ask(words[i]), "encoder": lambda i: encode(words[bench.repeats + i])},
                repeats=bench.repeats,
            )
            repeated = measuring.samples_ms(lambda _i: ask(words[0]), repeats=bench.repeats)
    # The encoder runs here as it does there; the two take turns.
    own = measuring.median(taken["server"]) - measuring.median(taken["encoder"])
    details = {"server_ms": measuring.spread(taken["server"]), "encoder_ms": measuring.spread(taken["encoder"])}
    return [
        Row(
            key="text.whole_p50",
            work=f"nearest {K} of {bench.rows:,} to new words, p50 with the encoder",
            mlpl=measuring.median(taken["server"]),
            unit="ms",
            target=5 + WHOLE_TEXT_MS,
            details={"target": "5 ms and what ViT-B-32 takes for all 77 positions of a text"},
        ),
        Row(
            key="text.p50",
            work=f"nearest {K} of {bench.rows:,} to new words, p50 less the encoder's {measuring.median(taken['encoder']):.0f} ms",
            mlpl=max(own, 0.01),
            unit="ms",
            target=5,
            details=details,
        ),
        Row(
            key="text.repeat_p50",
            work=f"nearest {K} of {bench.rows:,} to words asked before, p50",
            mlpl=measuring.median(repeated),
            unit="ms",
            target=5,
            details=measuring.spread(repeated),
        ),
    ]


def large(bench: Bench) -> list[Row]:
    """Nearest frames, filters and counts on the large fleet, with recall, on clustered vectors and on isotropic ones."""
    found: list[Row] = []
    for kind, name in ((CLIP_LIKE, "clustered"), (ISOTROPIC, "isotropic")):
        vectors = bench.large(kind)
        rows = bench.query_rows(bench.large_rows)
        queries = _rows_of(vectors.blocks(dtype=np.float16), rows)
        exact_rows = _exact_without_self(vectors, queries, rows)
        index = floor.flat_index(vectors.blocks(), dimension=vectors.dimension, half=True)
        by_row = dict(zip(rows, queries, strict=True))
        with bench.fleet(bench.large_rows, producer=kind) as platform:
            began = time.perf_counter()
            with mlpl.serving(platform.settings) as server:
                server.get("/api/v1/search", like=fleet.frame_id_of(rows[0], seed=bench.seed), k=1)
                ready_s = time.perf_counter() - began
                answers = [
                    server.rows(like=fleet.frame_id_of(row, seed=bench.seed), k=K) for row in rows[:RECALL_QUERIES]
                ]
                targets = (8, 25, 25) if kind == CLIP_LIKE else (None, None, None)
                measured = _nearest_rows(
                    bench,
                    server,
                    bench.large_rows,
                    index=index,
                    queries_ND=by_row,
                    targets=targets,
                    prefix=f"large.{name}",
                )
                found += [
                    Row(
                        key=f"large.{name}.recall",
                        work=f"recall@{K} of {bench.large_rows:,} {name} vectors",
                        mlpl=floor.recall(answers, exact_rows),
                        unit="share",
                        target=0.99 if kind == CLIP_LIKE else None,
                        sense="at_least",
                        floor=1.0,
                    ),
                    *measured,
                ]
                if kind == CLIP_LIKE:
                    found += _facet_rows(bench, server, platform, bench.large_rows, target_ms=80, prefix="large.")
                memory = server.memory_mb()
                found.append(
                    Row(
                        key=f"large.{name}.memory",
                        work=f"peak memory of server and database at {bench.large_rows:,} {name} vectors",
                        mlpl=sum(value or 0 for value in memory.values()),
                        unit="MB",
                        details=memory | {"from_start_to_first_answer_s": round(ready_s, 2)},
                    )
                )
        del index
    return found


def few_shot(bench: Bench) -> list[Row]:
    """From a changed handful of marks to the whole large fleet in the order of the probe, through HTTP."""
    with bench.fleet(bench.large_rows) as platform, mlpl.serving(platform.settings) as server:
        ids = [fleet.frame_id_of(row, seed=bench.seed) for row in bench.query_rows(bench.large_rows)]

        def mark(i: int) -> None:
            marks = {"yes": ids[i % len(ids) : i % len(ids) + 5], "no": []}
            server.post("/api/v1/concepts/few-shot", marks)

        def rank(i: int) -> None:
            mark(i)
            server.get("/api/v1/search", where="", sort="-concept:few-shot", k=K)

        measuring.settling_ms(lambda _i: mark(0), seconds=bench.settle_s)
        repeats = min(bench.repeats, 20)
        marking = measuring.samples_ms(mark, repeats=repeats)
        taken = measuring.samples_ms(rank, repeats=repeats)
    return [
        Row(
            key="few_shot",
            work=f"marks changed, probe fitted and {bench.large_rows:,} frames ranked by it, through HTTP",
            mlpl=measuring.median(taken) / 1000,
            unit="s",
            target=1.0,
            details={"ms": measuring.spread(taken), "marking_alone_ms": measuring.spread(marking)},
        )
    ]


def duplicates(bench: Bench) -> list[Row]:
    """Near-duplicates of the usual fleet: the groups with their keepers, and every pair."""
    emb, threshold = bench.vectors_ND, DUPLICATE_SIMILARITY
    work = f"near-duplicates of {bench.rows:,} (cosine >= {threshold})"
    exact: list[NDArray[np.int64]] = []
    floor_s = measuring.best_s(lambda: exact.append(floor.pairs_above(emb, threshold)), repeats=1)
    try:
        began = time.perf_counter()
        keepers = mlpl.duplicate_keepers(emb, threshold=threshold)
        groups_s = time.perf_counter() - began
        pairs = mlpl.duplicate_pairs(emb, threshold=threshold)
        pairs_s = time.perf_counter() - began - groups_s
    except ImportError as exc:
        missing = f"not in this version: {exc}"
        groups_s = pairs_s = recall = None
        details: dict[str, Any] = {}
    else:
        missing = ""
        recall, details = _duplicate_figures(emb, keepers, pairs, exact[0], threshold=threshold)
    return [
        Row(
            key="duplicates", work=work, mlpl=groups_s, unit="s", target=5, floor=floor_s, details=details, note=missing
        ),
        Row(
            key="duplicates.pairs", work="... every pair", mlpl=pairs_s, unit="s", target=5, floor=floor_s, note=missing
        ),
        Row(
            key="duplicates.recall",
            work="... share of exact pairs found",
            mlpl=recall,
            unit="share",
            target=0.99,
            sense="at_least",
            floor=1.0,
            note=missing,
        ),
    ]


def _duplicate_figures(
    emb: NDArray[np.float32],
    keepers: NDArray[np.int64],
    pairs: NDArray[np.int64],
    exact: NDArray[np.int64],
    *,
    threshold: float,
) -> tuple[float, dict[str, Any]]:
    """The share of the exact pairs that were returned as pairs, and what else tells whether the answer is right."""
    kept = keepers == np.arange(len(emb))
    strays = np.flatnonzero(~kept)
    near_keeper = np.einsum("nd,nd->n", emb[strays], emb[keepers[strays]])
    first, second = exact.T
    ours, theirs = (found[:, 0] * len(emb) + found[:, 1] for found in (pairs, exact))
    hits = len(np.intersect1d(ours, theirs))
    details = {
        "exact_pairs": len(exact),
        "pairs_beyond_threshold": len(pairs) - hits,
        "kept": int(kept.sum()),
        "pairs_in_one_group": float((keepers[first] == keepers[second]).mean()) if len(first) else 1.0,
        "pairs_kept_twice": float((kept[first] & kept[second]).mean()) if len(first) else 0.0,
        "median_similarity_to_keeper": _median(near_keeper),
        "put_aside_beyond_threshold": float((near_keeper < threshold - 1e-3).mean()) if len(strays) else 0.0,
    }
    return hits / len(exact) if len(exact) else 1.0, details


def diverse(bench: Bench) -> list[Row]:
    """The most diverse frames, exactly those of the greedy algorithm."""
    emb, budget = bench.vectors_ND, min(DIVERSE, bench.rows // 50)
    picks: dict[str, NDArray[np.int64]] = {}
    works: dict[str, Callable[[int], object]] = {
        "mlpl": lambda _i: picks.__setitem__("mlpl", mlpl.greedy(emb, budget=budget)),
        "floor": lambda _i: picks.__setitem__("floor", floor.greedy(emb, budget=budget)),
    }
    taken = measuring.interleaved_ms(works, repeats=bench.runs, turn=1, warm_up=0)
    same = bool((picks["mlpl"] == picks["floor"]).all())
    return [
        Row(
            key="diverse",
            work=f"{budget:,} most diverse of {bench.rows:,}, exactly greedy",
            mlpl=measuring.median(taken["mlpl"]) / 1000 if same else None,
            unit="s",
            target=1.5,
            floor=measuring.median(taken["floor"]) / 1000,
            note="" if same else "the picks are not those of plain greedy",
            details={"same_picks_as_plain_greedy": same},
        )
    ]


def mapping(bench: Bench) -> list[Row]:
    """A plane with all frames on it."""
    with bench.empty_fleet("map") as platform:
        fleet.fill(platform, bench.rows, seed=bench.seed)
        mlpl.store_vectors(platform, bench.half_ND, producer=CLIP_LIKE)
        began = time.perf_counter()
        placed = mlpl.project(platform, producer=CLIP_LIKE)
        took = time.perf_counter() - began
    if placed != bench.rows:
        raise AssertionError(f"{placed} of {bench.rows} frames have a place")
    return [
        Row(key="map", work=f"map of {bench.rows:,}, fitted and every frame placed", mlpl=took, unit="s", target=60)
    ]


def ingesting(bench: Bench) -> list[Row]:
    """Files into the fleet, against reading, hashing and decoding the same files on the same cores."""
    from selection.ingest import ingest
    from selection.pixels import images

    found = []
    for width, height, count in ((1920, 1080, bench.images), (3840, 2160, max(4, bench.images // 3))):
        folder = bench.home / "jpegs" / f"{width}x{height}-{count}"
        paths = benches.jpegs(folder, count=count, width=width, height=height)
        taken: dict[str, list[float]] = {"mlpl": [], "full": [], "reduced": []}
        floor.decode_and_hash(paths, short_side=None)
        with (
            ExitStack() as fleets
        ):  # Dropped together, at the end: ext4 looks long for an inode while many were freed a moment ago.
            for number in range(bench.runs):
                platform = fleets.enter_context(bench.empty_fleet(f"ingest-{number}"))
                began = time.perf_counter()
                report = ingest.ingest(platform, [str(folder)])
                taken["mlpl"].append(time.perf_counter() - began)
                if report.added != count:
                    raise AssertionError(f"{report.added} of {count} files were added: {report.summary()}")
                for name, side in (("full", None), ("reduced", images.PREVIEW_SHORT_SIDE)):
                    began = time.perf_counter()
                    floor.decode_and_hash(paths, short_side=side)
                    taken[name].append(time.perf_counter() - began)
        rates = {name: count / statistics.median(seconds) for name, seconds in taken.items()}
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        found += [
            Row(
                key=f"ingest.{height}p",
                work=f"ingest of {count} JPEGs of {width}x{height}, share of a bare decode-and-hash loop",
                mlpl=rates["mlpl"] / rates["full"],
                unit="share",
                target=0.85,
                sense="at_least",
                floor=1.0,
                details={
                    "frames_per_s": rates,
                    "mb": round(megabytes, 1),
                    "share_of_reduced": rates["mlpl"] / rates["reduced"],
                },
            )
        ]
    return found


def embedding(bench: Bench) -> list[Row]:
    """Previews into vector shards, against the bare forward pass on the same images."""
    from PIL import Image

    from selection.embedding import embed, encoders
    from selection.ingest import ingest

    count = max(4, bench.images // 3)
    folder = bench.home / "jpegs" / f"640x360-{count}"
    paths = benches.jpegs(folder, count=count, width=640, height=360)
    taken: dict[str, list[float]] = {"mlpl": [], "forward": []}
    with bench.empty_fleet("embed") as plain:
        platform = bench.with_encoder(plain)
        ingest.ingest(platform, [str(folder)])
        encoder = encoders.load_encoder(platform)
        pixels = [Image.open(path).convert("RGB") for path in paths]
        forward = _forward_only(encoder, pixels)
        forward()
        for _ in range(bench.runs):
            began = time.perf_counter()
            forward()
            taken["forward"].append(time.perf_counter() - began)
            began = time.perf_counter()
            embed.embed_rows(platform, encoder, start=0, stop=count)
            taken["mlpl"].append(time.perf_counter() - began)
    rates = {name: count / statistics.median(seconds) for name, seconds in taken.items()}
    return [
        Row(
            key="embed",
            work=f"embedding of {count} previews with {encoder.encoder_id}, share of the bare forward pass",
            mlpl=rates["mlpl"] / rates["forward"],
            unit="share",
            target=0.95,
            sense="at_least",
            floor=1.0,
            details={"frames_per_s": rates},
        )
    ]


GROUPS: dict[str, Group] = {
    "register": registering,
    "store": storing,
    "cold_start": cold_start,
    "search": searching,
    "text": text,
    "duplicates": duplicates,
    "diverse": diverse,
    "map": mapping,
    "ingest": ingesting,
    "embed": embedding,
    "large": large,
    "few_shot": few_shot,
}
ON_REQUEST: dict[str, Group] = {"ten_million": compressed.ten_million}
"""Take an hour and tens of gigabytes of disk, so they run only when named."""


def chosen(names: list[str]) -> dict[str, Group]:
    """The groups of those names; when there are none, all but those that run on request only.

    Raises:
        InvalidInput: There is no such group.
    """
    known = GROUPS | ON_REQUEST
    for name in names:
        if name not in known:
            raise InvalidInput(f"there are no rows {name!r}: choose from {', '.join(known)}")
    return {name: known[name] for name in known if name in names} if names else dict(GROUPS)


def _nearest_rows(
    bench: Bench,
    server: mlpl.Server,
    rows: int,
    *,
    index: Any,
    queries_ND: Any,
    targets: tuple[float | None, float | None, float | None],
    prefix: str = "nearest",
) -> list[Row]:
    """p50 and p95 of the nearest frames, and p95 within the filter; the server and FAISS take turns."""
    wanted = bench.query_rows(rows)
    ids = [fleet.frame_id_of(row, seed=bench.seed) for row in wanted]
    mask = bench.mask(rows)
    starting = measuring.settling_ms(
        lambda i: server.get("/api/v1/search", like=ids[i % len(ids)], k=K), seconds=bench.settle_s
    )
    taken = measuring.interleaved_ms(
        {
            "plain": lambda i: server.get("/api/v1/search", like=ids[i % len(ids)], k=K),
            "filter": lambda i: server.get("/api/v1/search", like=ids[i % len(ids)], k=K, where=FILTER),
            "plain_floor": lambda i: floor.nearest(index, queries_ND[wanted[i % len(wanted)]], k=K),
            "filter_floor": lambda i: floor.nearest(index, queries_ND[wanted[i % len(wanted)]], k=K, mask=mask),
        },
        repeats=bench.repeats,
    )
    within = f"within {FILTER} ({mask.mean():.0%})"
    lines = (
        ("p50", "plain", measuring.median, targets[0], f"nearest {K} of {rows:,} through HTTP, p50"),
        ("p95", "plain", measuring.p95, targets[1], f"nearest {K} of {rows:,} through HTTP, p95"),
        ("filter_p50", "filter", measuring.median, None, f"nearest {K} of {rows:,} {within}, p50"),
        ("filter_p95", "filter", measuring.p95, targets[2], f"nearest {K} of {rows:,} {within}, p95"),
    )
    kind = f" ({prefix.removeprefix('large.')})" if prefix != "nearest" else ""
    return [
        Row(
            key=f"{prefix}.{name}",
            work=work + kind,
            mlpl=statistic(taken[which]),
            unit="ms",
            target=target,
            floor=statistic(taken[f"{which}_floor"]),
            details=measuring.spread(taken[which]) | {"right_after_start": measuring.spread(starting)},
        )
        for name, which, statistic, target, work in lines
    ]


def _facet_rows(
    bench: Bench, server: mlpl.Server, platform: Platform, rows: int, *, target_ms: float, prefix: str = ""
) -> list[Row]:
    mask = bench.mask(rows)
    answer = json.loads(server.get("/api/v1/facets", where=FILTER))
    if answer["total"] != int(mask.sum()):
        raise AssertionError(f"{answer['total']} frames match {FILTER}, not {int(mask.sum())}")
    codes = np.random.default_rng(0).integers(0, 50, size=(FACET_KEYS, rows)).astype(np.int32)

    def plain(_i: int) -> None:
        for column in codes:
            np.bincount(column[mask], minlength=50)

    taken = measuring.interleaved_ms(
        {"mlpl": lambda _i: server.get("/api/v1/facets", where=FILTER), "floor": plain},
        repeats=max(20, bench.repeats // 2),
    )
    return [
        Row(
            key=f"{prefix}facets",
            work=f"count and facets of {rows:,} within {FILTER}, through HTTP, p50",
            mlpl=measuring.median(taken["mlpl"]),
            unit="ms",
            target=target_ms,
            floor=measuring.median(taken["floor"]),
            details=measuring.spread(taken["mlpl"]) | {"keys": len(answer["facets"])},
        )
    ]


def _load_encoder(platform: Platform) -> tuple[Callable[[str], object], str, int]:
    from selection.embedding import encoders

    encoder = encoders.load_encoder(platform)
    return lambda words: encoder.encode_texts([words]), encoder.encoder_id, encoder.dimension


def _forward_only(encoder: Any, pictures: list[Any]) -> Callable[[], None]:
    """The encoder's forward pass over images that are preprocessed already, in batches of its own size."""
    import torch

    replica = encoder.workers(rows=0)[0]
    with torch.inference_mode():
        pixels = replica.normalised([encoder.prepare(picture) for picture in pictures])

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, len(pixels), replica.batch_frames):
                replica.forward(pixels[start : start + replica.batch_frames])

    return forward


def _rows_of(blocks: Any, rows: list[int]) -> NDArray[np.float32]:
    """The vectors of some rows, shape (len(rows), D), of unit length."""
    wanted = np.array(rows)
    start, found = 0, {}
    for block in blocks:
        for place in np.flatnonzero((wanted >= start) & (wanted < start + len(block))).tolist():
            found[place] = block[wanted[place] - start]
        start += len(block)
    return benches.unit(np.stack([found[place] for place in range(len(rows))]))


def _exact_without_self(vectors: Any, queries: NDArray[np.float32], rows: list[int]) -> NDArray[np.int64]:
    """The exact nearest rows of the first queries, without the query's own."""
    some = queries[:RECALL_QUERIES]
    nearest = floor.exact_scores(vectors.blocks(dtype=np.float16), some, k=K + 1)[1]
    return np.stack([line[line != row][:K] for line, row in zip(nearest, rows[: len(some)], strict=True)])


def _median(values: NDArray[np.float32]) -> float | None:
    return round(float(np.median(values)), 4) if len(values) else None


def write_inputs(bench: Bench, folder: Path) -> dict[str, Path]:
    """The usual fleet as files that any product's script can read: vectors, and one JSON line a frame."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"vectors": folder / "vectors.npy", "frames": folder / "frames.jsonl"}
    if not paths["frames"].is_file():
        np.save(paths["vectors"], bench.vectors_ND)
        from tests.benchmarks.descriptions import described

        partial = paths["frames"].with_suffix(".partial")
        with partial.open("w") as file:
            for row, one in enumerate(described(bench.clip_like.drives(), seed=bench.seed)):
                file.write(json.dumps({"row": row, "drive": one.drive, **one.attributes}) + "\n")
        partial.replace(paths["frames"])
    return paths
