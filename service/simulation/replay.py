"""Replay: labelling as it would have gone, round by round, on frames whose labels are known already.

Frames go through the product's own ingest, embedding, splits by drive and selection plans; only the people are a table of answers. Every
finished round is a line of `results.jsonl`, written before the next begins, so a replay that was killed goes on where it was. Within a
seed all strategies have the same pool and the same evaluation frames.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import InvalidInput
from infra.platform import Platform
from infra.settings import Settings
from selection import shards
from selection.embedding import encoders
from selection.embedding.embed import embed_missing
from selection.fleet import frames
from selection.ingest.ingest import ingest
from selection.planning.selecting import select
from selection.ranking.acquisition import SCORES
from selection.ranking.predictions import Predictions
from service.curator import Curator
from service.demo import answers, demo
from service.fleet_sources import FleetSources
from service.production_line import open_line
from service.simulation import learners
from service.simulation.learners import Learner
from service.simulation.strategies import Strategy

RESULTS = "results.jsonl"
ALL_LABELS = "(all labels)"
NO_LABELS = "(no labels)"
_LEAST_EVALUATION_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `mlpl simulate` was asked for.

    Attributes:
        frames: Folder with images and `metadata.jsonl`; None for the simulated fleet of `mlpl demo`.
        classes: Classes of the multilabel task; None chooses those that some frames show and some do not.
        batch: Labels bought in a round.
        seeds: How many times all is repeated, each with other drives held out and other draws.
        learner: `probe` or `cnn`.
        out: Folder that keeps everything.
        training: Hyperparameters of the `cnn` learner that differ from the defaults.
    """

    out: Path
    strategies: Sequence[Strategy]
    frames: Path | None = None
    classes: Sequence[str] | None = None
    rounds: int = 10
    batch: int = 20
    seeds: int = 5
    learner: str = "probe"
    fleet_seed: int = 0
    training: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Checks the learner's name.

        Raises:
            InvalidInput: There is no such learner.
        """
        if self.learner not in learners.LEARNERS:
            raise InvalidInput(f"there is no learner {self.learner!r}: choose {' or '.join(learners.LEARNERS)}")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is known after one round; one line of `results.jsonl`.

    Attributes:
        key: Digest of all that decides the figures; a line with another key is of another simulation.
        labels: Bought so far.
        rows: Bought in this round.
        metric: Macro average precision on the evaluation frames.
    """

    key: str
    strategy: str
    seed: int
    round: int
    labels: int
    metric: float
    rows: list[int]


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Everything that was found.

    Attributes:
        fleet: Where the frames came from and how many they are, for the report.
        rounds: In the order of strategies, seeds and rounds; those of `ALL_LABELS` and `NO_LABELS` first.
    """

    classes: tuple[str, ...]
    fleet: dict[str, Any]
    rounds: list[Round]


@dataclass(frozen=True, kw_only=True)
class _Fleet:
    """Frames with answers, aligned by row.

    Attributes:
        answered: Shape (rows,): frames that the metadata tells about and that have a vector.
        target_NC: Shape (rows, C).
    """

    curator: Curator
    classes: tuple[str, ...]
    answered: NDArray[np.bool_]
    target_NC: NDArray[np.float32]
    digest: str
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """Where a replay tells what happens: a line for people, and progress as done and total."""

    say: Callable[[str], None]
    progress: Callable[[int, int], None]


def home_settings(usual: Settings, out: Path) -> Settings:
    """Settings that keep a simulation's frames away from the real fleet: a home of its own under `out`, and in a shared database server
    a database of its own.
    """
    changes: dict[str, Any] = {"home": (out / "home").absolute(), "object_store": None}
    if usual.mongodb_uri is not None:
        digest = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:12]
        changes["database"] = f"{usual.database[:20]}_sim_{digest}"
    return usual.model_copy(update=changes)


@contextmanager
def opened(settings: Settings) -> Iterator[Platform]:
    """The stores of a simulation."""
    with open_line(settings) as platform:
        yield platform


def run(platform: Platform, options: Options, report: Reporter) -> Replay:
    """Replays every strategy, or what is left of it.

    Raises:
        InvalidInput: The frames or classes cannot be used.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    fleet = _fleet(platform, options, report)
    learner = _learner(platform, fleet, options)
    store = _Store(options.out / RESULTS)
    total = options.seeds * len(options.strategies) * options.rounds
    report.say(
        f"replaying {len(options.strategies)} strategies, {options.rounds} rounds of {options.batch} labels, {options.seeds} seeds"
    )
    found: list[Round] = []
    for seed in range(options.seeds):
        bench = _Bench(platform, fleet, learner, options, store, seed=seed)
        found += bench.ends()
        for place, strategy in enumerate(options.strategies):
            before = (seed * len(options.strategies) + place) * options.rounds
            for one in bench.replay(strategy):
                found.append(one)
                report.progress(before + one.round, total)
    report.progress(total, total)
    return Replay(classes=fleet.classes, fleet=fleet.about, rounds=found)


class _Bench:
    """One seed: its pool, its evaluation frames, and the rounds of strategies on them."""

    def __init__(
        self, platform: Platform, fleet: _Fleet, learner: Learner, options: Options, store: _Store, *, seed: int
    ) -> None:
        from annotation import splits

        self._platform, self._fleet, self._learner = platform, fleet, learner
        self._options, self._store, self._seed = options, store, seed
        by_split = splits.masks(platform.database, task_id=f"simulate-{seed}", columns=fleet.curator.columns())
        self._pool = by_split["train"] & fleet.answered
        self._test = np.flatnonzero(by_split["test"] & fleet.answered)
        if len(self._test) < _LEAST_EVALUATION_FRAMES or not self._pool.any():
            raise InvalidInput(
                f"seed {seed}: {int(self._pool.sum())} frames to learn from and {len(self._test)} to judge by are too few to simulate on"
            )

    def ends(self) -> list[Round]:
        """The two ends of every curve: no label at all, where all frames look the same, and all labels of the pool."""
        rows = np.flatnonzero(self._pool)
        key = self._key(None)
        flat = np.full(self._fleet.target_NC.shape, 0.5, dtype=np.float32)
        none = Round(
            key=key, strategy=NO_LABELS, seed=self._seed, round=0, labels=0, metric=self._metric(flat), rows=[]
        )
        known = self._store.get(key, ALL_LABELS, self._seed, 0)
        if known is None:
            metric = self._metric(self._fit(rows))
            known = Round(
                key=key, strategy=ALL_LABELS, seed=self._seed, round=0, labels=len(rows), metric=metric, rows=[]
            )
            self._store.add(known)
        return [none, known]

    def replay(self, strategy: Strategy) -> Iterator[Round]:
        """Rounds until the pool is empty or all are done."""
        key = self._key(strategy)
        labelled: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        probability_NC: NDArray[np.float32] | None = None
        for number in range(1, self._options.rounds + 1):
            if len(labelled) == int(self._pool.sum()):
                return
            known = self._store.get(key, strategy.name, self._seed, number)
            if known is None:
                if probability_NC is None and number > 1 and strategy.asks_model:
                    probability_NC = self._fit(labelled)
                picked = self._choose(strategy, labelled, probability_NC, number=number)
                if not len(picked):
                    return
                labelled = np.concatenate([labelled, picked])
                probability_NC = self._fit(labelled)
                known = Round(
                    key=key,
                    strategy=strategy.name,
                    seed=self._seed,
                    round=number,
                    labels=len(labelled),
                    metric=self._metric(probability_NC),
                    rows=picked.tolist(),
                )
                self._store.add(known)
            else:
                labelled, probability_NC = np.concatenate([labelled, np.array(known.rows, dtype=np.int64)]), None
            yield known

    def _choose(
        self,
        strategy: Strategy,
        labelled: NDArray[np.int64],
        probability_NC: NDArray[np.float32] | None,
        *,
        number: int,
    ) -> NDArray[np.int64]:
        pool = self._pool & self._wanted(strategy)
        pool[labelled] = False
        budget = min(self._options.batch, int(pool.sum()))
        if not budget:
            return labelled[:0]
        model_id = None
        if strategy.asks_model and probability_NC is not None:
            model_id = f"simulated-{hashlib.sha256(strategy.name.encode()).hexdigest()[:8]}-{self._seed}-{number}"
            self._predict(model_id, probability_NC)
        chosen = select(
            strategy.plan(budget=budget, seed=self._seed * 1000 + number),
            pool=np.flatnonzero(pool).astype(np.int64),
            taken=labelled,
            sources=_SimulatedSources(self._platform, self._fleet.curator, model_id=model_id),
        ).choices
        if model_id is not None:
            shards.remove(self._platform, "predictions", model_id)
        return np.array([choice.row for choice in chosen], dtype=np.int64)

    def _wanted(self, strategy: Strategy) -> NDArray[np.bool_]:
        """Frames that the strategy's plan may choose, shape (rows,)."""
        curator, plan = self._fleet.curator, strategy.usual
        wanted = curator.mask(plan.where)[: len(self._pool)]
        for text in plan.exclude:
            wanted &= ~curator.mask(text)[: len(self._pool)]
        return wanted

    def _predict(self, model_id: str, probability_NC: NDArray[np.float32]) -> None:
        """Puts the model's answers where plans look for them: in prediction shards."""
        from training.prediction import Opinion, prediction_table

        shards.remove(self._platform, "predictions", model_id)  # Left by a run that was killed.
        for start in range(0, len(probability_NC), shards.BLOCK_ROWS):
            piece = probability_NC[start : start + shards.BLOCK_ROWS]
            # A learner here gives probabilities and no more; the scores that need more are no strategies.
            opinion = Opinion(
                probability_NC=piece,
                passes_MNC=np.stack([piece, piece]),
                feature_rms_N=np.ones(len(piece), dtype=np.float32),
            )
            table = prediction_table(opinion, valid_N=np.ones(len(piece), dtype=bool), start=start, kind="multilabel")
            shards.write(self._platform, "predictions", model_id, start, start + len(piece), table)

    def _fit(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._learner.probabilities(rows, self._fleet.target_NC[rows], seed=self._seed)

    def _metric(self, probability_NC: NDArray[np.float32]) -> float:
        from training.job.evaluation import evaluate

        figures = evaluate(
            probability_NC[self._test],
            self._fleet.target_NC[self._test],
            kind="multilabel",
            classes=self._fleet.classes,
            train_positives=[0] * len(self._fleet.classes),
        )
        if figures["metric"] is None:
            raise InvalidInput(
                f"seed {self._seed}: no class has both a frame that shows it and one that does not among the evaluation "
                "frames; choose other classes with --task-classes"
            )
        return figures["metric"]

    def _key(self, strategy: Strategy | None) -> str:
        """Digest of what decides a strategy's figures, but the code."""
        options = self._options
        decisive: list[Any] = [self._fleet.digest, options.learner, options.training, learners.PROBE_PENALTY]
        if strategy is not None:
            plan = strategy.plan(budget=options.batch, seed=0)
            decisive += [repr(plan), strategy.asks_model, options.batch]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


class _SimulatedSources(FleetSources):
    """A fleet with a model that was never registered: one round's."""

    def __init__(self, platform: Platform, curator: Curator, *, model_id: str | None) -> None:
        super().__init__(platform, curator)
        self._model_id = model_id

    def scores(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.floating] | None:
        if name not in SCORES:
            return super().scores(name, rows)
        if self._model_id is None:
            return None
        predictions = Predictions(self._platform, self._model_id)
        predictions.refresh()
        return predictions.score(name, rows)


class _Store:
    """Finished rounds in a file of JSON Lines that only grows. A line that a kill cut off is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rounds: dict[tuple[str, str, int, int], Round] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            try:
                self._take(Round(**json.loads(line)))
            except (ValueError, TypeError):
                continue
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def get(self, key: str, strategy: str, seed: int, number: int) -> Round | None:
        return self._rounds.get((key, strategy, seed, number))

    def add(self, one: Round) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one.__dict__) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(one)

    def _take(self, one: Round) -> None:
        self._rounds[one.key, one.strategy, one.seed, one.round] = one


def _fleet(platform: Platform, options: Options, report: Reporter) -> _Fleet:
    directory = options.frames or _simulated(platform, options, report)
    classes = options.classes or (demo.SIMULATED_CLASSES if options.frames is None else None)
    taken = ingest(platform, [str(directory)], site=None, metadata=None, progress=report.progress)
    report.say(taken.summary())
    key = answers.read(directory, classes=classes)
    curator = Curator(platform)
    with encoders.choice_announced(platform, report.say):
        encoder = curator.encoder()
    embed_missing(platform, encoder, progress=report.progress)
    count = frames.row_count(platform.database)
    answered, target_NC = np.zeros(count, dtype=bool), np.zeros((count, len(key.classes)), dtype=np.float32)
    described = hashlib.sha256(json.dumps([curator.encoder_id(), key.classes]).encode())
    for document in frames.documents(platform.database, start=0, fields=("_id", "row")):
        answer = key.answer(document["_id"])
        if answer is not None:
            answered[document["row"]] = True
            target_NC[document["row"]] = [name in answer for name in key.classes]
        described.update(f"{document['row']} {document['_id']} {answer}\n".encode())
    answered &= curator.index().has(np.arange(count))
    shares = dict(zip(key.classes, target_NC[answered].mean(axis=0).round(4).tolist(), strict=True))
    about = {
        "frames": "simulated fleet" if options.frames is None else str(directory),
        "count": int(answered.sum()),
        "encoder_id": curator.encoder_id(),
        "class_shares": shares,
    }
    return _Fleet(
        curator=curator,
        classes=key.classes,
        answered=answered,
        target_NC=target_NC,
        digest=described.hexdigest(),
        about=about,
    )


def _simulated(platform: Platform, options: Options, report: Reporter) -> Path:
    from service.demo.simulated_fleet import generate

    directory = platform.settings.home / "demo" / f"simulated-{options.fleet_seed}"
    if not (directory / "metadata.jsonl").exists():
        report.say(f"making a simulated fleet of {demo.SIMULATED_FRAMES} frames in {directory}")
        generate(
            directory,
            frames=demo.SIMULATED_FRAMES,
            frames_per_drive=demo.SIMULATED_FRAMES_PER_DRIVE,
            seed=options.fleet_seed,
            progress=report.progress,
        )
    return directory


def _learner(platform: Platform, fleet: _Fleet, options: Options) -> Learner:
    if options.learner == "cnn":
        return learners.TrainingJob(
            platform,
            classes=fleet.classes,
            folder=platform.settings.home / "training",
            hyperparameters=options.training,
        )
    index, rows = fleet.curator.index(), np.arange(len(fleet.answered))
    known = index.has(rows)
    some = index.vectors(rows[known])
    vectors_ND = np.zeros((len(rows), some.shape[1]), dtype=np.float32)
    vectors_ND[known] = some
    return learners.Probe(vectors_ND)
