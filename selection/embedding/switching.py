"""Switching a fleet to another encoder: the old one serves until every row has a vector of the new one, then all of it changes at once.

Vectors of all encoders are kept, each under its own id, so switching back costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.database import retrying
from infra.errors import BackendUnavailable
from infra.logs import get_logger
from infra.platform import Platform
from selection import shards
from selection.embedding import encoders, weights
from selection.embedding.encoder import Encoder
from selection.fleet import frames

_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class KnownEncoder:
    """An encoder that this fleet has, or is getting, vectors of.

    Attributes:
        name: What `MLPL_ENCODER` or `mlpl encoder use` called it.
        role: `serving` answers searches, `wanted` is being embedded and serves next, `kept` did so before.
        embedded: Rows that have a vector.
    """

    name: str
    encoder_id: str
    role: str
    embedded: int


def use(platform: Platform, name: str) -> Encoder:
    """Makes an encoder the wanted one. It serves as soon as every row is embedded, which `finish` sees to.

    Args:
        platform: The fleet.
        name: As in `MLPL_ENCODER`.
    Raises:
        InvalidInput: There is no such encoder.
        BackendUnavailable: Its weights cannot be had here.
    """
    there = encoders.naming(platform, name)
    encoder = _loaded(there)
    roles = {"_id": encoders.roles_id(platform)}
    if encoders.current_encoder_id(platform) in (None, encoder.encoder_id):
        change: dict[str, Any] = {"$set": {"serving": name}, "$unset": {"wanted": ""}}
    else:
        change = {"$set": {"wanted": name}}
    retrying(lambda: platform.database.encoders.update_one(roles, change, upsert=True))
    _log.info("encoder_wanted", encoder_id=encoder.encoder_id, name=name)
    return encoder


def wanted(platform: Platform) -> str | None:
    """The name of the encoder that the fleet is being switched to."""
    found = platform.database.encoders.find_one({"_id": encoders.roles_id(platform)}, {"wanted": 1})
    return str(found["wanted"]) if found and "wanted" in found else None


def load_wanted(platform: Platform, name: str) -> Encoder:
    """Loads the encoder that the fleet is being switched to."""
    return _loaded(encoders.naming(platform, name))


def finish(platform: Platform, name: str, encoder_id: str) -> bool:
    """Lets the wanted encoder serve, if it has a vector for every row: one update of one document, so nobody sees half a switch.

    Returns:
        Whether it serves now.
    """
    db = platform.database
    if shards.gaps(db, "vectors", encoder_id, frames.row_count(db)):
        return False
    roles = {"_id": encoders.roles_id(platform), "wanted": name}
    change = {"$set": {"serving": name}, "$unset": {"wanted": ""}}
    done = retrying(lambda: db.encoders.update_one(roles, change)).modified_count == 1
    if done:
        _log.info("encoder_switched", encoder_id=encoder_id, name=name)
    return done


def known(platform: Platform) -> list[KnownEncoder]:
    """All encoders of this fleet, the serving one first."""
    current, next_name = encoders.chosen(platform), wanted(platform)
    target = encoders.choice_of(encoders.naming(platform, next_name)) if next_name else None
    found: list[KnownEncoder] = []
    for document in platform.database.encoders.find({"encoder_id": {"$exists": True}}).sort("chosen_at", 1):
        encoder_id = str(document["encoder_id"])
        if any(one.encoder_id == encoder_id for one in found):
            continue
        is_current = current is not None and encoder_id == current.encoder_id
        is_target = target is not None and encoder_id == target.encoder_id
        found.append(
            KnownEncoder(
                name=str(document["configured"]),
                encoder_id=encoder_id,
                role="serving" if is_current else "wanted" if is_target else "kept",
                embedded=shards.row_total(platform.database, "vectors", encoder_id),
            )
        )
    return sorted(found, key=lambda one: ("serving", "wanted", "kept").index(one.role))


def _loaded(there: Platform) -> Encoder:
    """Loads what was named, and nothing in its stead: who asks for an encoder by name does not want a stand-in."""
    before = encoders.choice_of(there)
    encoder = encoders.load_named(there)
    choice = encoders.choice_of(there)
    if choice is not None and choice.kind == "small" and there.settings.encoder != weights.SMALL:
        if before is None:
            there.database.encoders.delete_one({"_id": choice.configured, "kind": "small"})
        raise BackendUnavailable(
            f"encoder {there.settings.encoder} cannot be had here; the fleet keeps the one it has", retry_after_s=60
        )
    return encoder
