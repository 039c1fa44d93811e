"""Embedding on many hosts with Ray Data: the same pieces, committed by the same inserts, so what they leave is what one process would leave.

Each host of the cluster (or each of its GPUs) gets a process that opens the stores for itself and is handed pieces. Ray moves only
their bounds; frames and vectors go between the object store and the host that is at them. Whatever Ray starts twice commits once.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from infra.errors import BackendUnavailable, InvalidInput
from infra.logs import get_logger
from infra.platform import Platform, open_platform
from infra.settings import Settings
from selection.embedding import embed, encoders
from selection.embedding.encoder import Encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOCAL = "local"
"""Instead of an address: a cluster of this machine alone, gone when the work is done."""

_PIECES_A_CALL = 4
_KNOCK_TIMEOUT_S = 5.0
_OBJECT_STORE_BYTES = 200_000_000  # Only bounds and counts pass through it.
_RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # It would rebuild the environment of `uv run` on every host.
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # What matters comes back as an exception.
}

_log = get_logger(__name__)


def embed_missing(
    platform: Platform,
    *,
    address: str,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_unreadable: Callable[[str], None] = lambda _where: None,
) -> int:
    """Embeds every row that has no vector of the serving encoder yet, on all hosts of a Ray cluster.

    Args:
        platform: The fleet; its settings are what the other hosts open it by.
        address: Of the cluster's head (`host:port`), or `LOCAL`.
        progress: Called with rows done and rows to do whenever a few pieces came home.
        on_unreadable: As in `embed.embed_missing`.

    Returns:
        Rows that this call embedded.

    Raises:
        InvalidInput: Ray is not installed, or the stores cannot be reached from other hosts.
        BackendUnavailable: The cluster does not answer, or none of its hosts can do the work.
    """
    encoder_id = encoders.current_encoder_id(platform) or encoders.load_encoder(platform).encoder_id
    done, began = 0, datetime.now(UTC)
    with _connected(address) as ray:
        _check_reach(platform.settings, addresses={node["NodeManagerAddress"] for node in _nodes(ray)})
        while pieces := embed.missing_pieces(platform, encoder_id, tried_before=began):
            total, before, troubles = done + sum(stop - start for start, stop in pieces), done, []
            for one in _results(ray, platform.settings, encoder_id, pieces):
                done += one["rows"]
                for where in json.loads(one["unreadable"]):
                    on_unreadable(where)
                troubles += [one["trouble"]] if one["trouble"] else []
                progress(done, total)
            if troubles:
                raise BackendUnavailable(f"{troubles[0]} (on a host of the cluster; what others embedded is kept)")
            if done == before:
                break
    if done:
        _log.info("rows_embedded", encoder_id=encoder_id, rows=done, cluster=address)
    return done


class _Host:
    """The process of one host or GPU."""

    def __init__(self, settings: Settings, encoder_id: str) -> None:
        self._settings, self._encoder_id = settings, encoder_id
        self._open = ExitStack()
        self._ready: tuple[Platform, Encoder] | None = None

    def __call__(self, pieces: dict[str, NDArray[np.int64]]) -> dict[str, list[Any]]:
        """Embeds some pieces. What goes wrong travels as a sentence, so that it reads the same on the driver's side."""
        unreadable: list[str] = []
        bounds = [(int(start), int(stop)) for start, stop in zip(pieces["start"], pieces["stop"], strict=True)]
        rows, trouble = 0, ""
        try:
            platform, encoder = self._opened()
            rows = embed.embed_pieces(platform, encoder, bounds, on_unreadable=unreadable.append)
        except Exception as exc:
            trouble = str(exc).partition("\n")[0] or type(exc).__name__
        return {"rows": [rows], "unreadable": [json.dumps(unreadable)], "trouble": [trouble]}

    def _opened(self) -> tuple[Platform, Encoder]:
        if self._ready is None:
            with ExitStack() as opening:  # What cannot be used is closed again: the next pieces try anew.
                platform = opening.enter_context(open_platform(self._settings))
                encoder = encoders.load_encoder(platform)
                if encoder.encoder_id != self._encoder_id:
                    raise InvalidInput(
                        f"this host has the encoder {encoder.encoder_id}, but the work is for {self._encoder_id}"
                    )
                self._open, self._ready = opening.pop_all(), (platform, encoder)
        return self._ready


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)  # Read when Ray is imported.
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise InvalidInput(
            "a cluster needs Ray, which is not installed: run `uv sync --extra cluster` (or pip install 'ray[data]')"
        ) from exc
    _check_answers(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    if address == LOCAL:
        options |= {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except Exception as exc:
        # Ray has no one error for this: a ConnectionError, a RuntimeError or a ValueError, after its own time limit.
        raise BackendUnavailable(
            f"no Ray cluster answers at {address}: {str(exc).partition(chr(10))[0][:200]}"
        ) from exc
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Knocks at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # `local`, `auto` and the like.
    try:
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=_KNOCK_TIMEOUT_S).close()
    except (OSError, OverflowError) as exc:
        raise BackendUnavailable(
            f"no Ray cluster answers at {address}; start its head with `ray start --head`"
        ) from exc


def _nodes(ray: Any) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not nodes:
        raise BackendUnavailable("the Ray cluster has no host with a CPU to give; start one with `ray start`")
    return nodes


def _check_reach(settings: Settings, *, addresses: set[str]) -> None:
    """Refuses hosts that could reach neither an embedded database nor a folder of this machine."""
    missing = [
        name
        for name, value in (("MLPL_MONGODB_URI", settings.mongodb_uri), ("MLPL_OBJECT_STORE", settings.object_store))
        if value is None
    ]
    if len(addresses) > 1 and missing:
        raise InvalidInput(
            f"the cluster has {len(addresses)} hosts, and what is embedded here can be reached from this one only: "
            f"set {' and '.join(missing)} to what all of them reach"
        )


def _results(
    ray: Any, settings: Settings, encoder_id: str, pieces: Sequence[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """What each call of a `_Host` gave, as they come home."""
    nodes = _nodes(ray)
    gpus = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
    hosts = min(gpus or len(nodes), len(pieces))
    # A host's process takes all its CPUs, or one GPU; Ray spreads the processes by that.
    share = {"num_gpus": 1} if gpus else {"num_cpus": min(node["Resources"]["CPU"] for node in nodes)}
    blocks = max(hosts, -(-len(pieces) // _PIECES_A_CALL))
    bounds = ray.data.from_items([{"start": start, "stop": stop} for start, stop in pieces], override_num_blocks=blocks)
    yield from bounds.map_batches(
        _Host,
        fn_constructor_args=(settings.model_copy(update={"home": settings.home.absolute()}), encoder_id),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=hosts),
        **share,
    ).iter_rows()
