"""Encoders of a fleet: which one it uses, and loading that.

Which encoder a fleet uses is decided once for each value of `MLPL_ENCODER` and recorded, so that all processes agree and a fleet does not
end up with vectors of two encoders when one machine has a network and another has not. The configured weights are taken where they can
be had; where not, the small encoder that ships with MLPL stands in, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from pymongo import IndexModel

from infra.database import retrying
from infra.errors import BackendUnavailable, Conflict
from infra.logs import get_logger
from infra.platform import Platform
from selection.embedding import weights
from selection.embedding.encoder import Encoder
from selection.embedding.weights import Weights

INDEXES: dict[str, list[IndexModel]] = {"encoders": []}

Kind = Literal["configured", "small"]

_SMALL_ONE = "the small encoder that ships with MLPL, which knows driving scenes only; see README"
_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncoderChoice:
    """Which encoder stands behind a value of `MLPL_ENCODER`, for every process of this database.

    Attributes:
        configured: The setting's value.
        encoder_id: Name and a digest of the weights: other weights are another encoder.
        kind: `configured`, or `small` for the one that ships with MLPL.
        notice: One line for people when the small encoder is used.
    """

    configured: str
    encoder_id: str
    kind: Kind
    notice: str | None
    chosen_at: datetime


def chosen(platform: Platform) -> EncoderChoice | None:
    """The encoder of this fleet, or None when none was loaded yet. Needs no model and no import of one."""
    return choice_of(serving(platform))


def serving(platform: Platform) -> Platform:
    """The same stores, with the encoder set that the fleet was switched to, if it was."""
    found = platform.database.encoders.find_one({"_id": roles_id(platform)}, {"serving": 1})
    return naming(platform, str(found["serving"])) if found and "serving" in found else platform


def naming(platform: Platform, name: str) -> Platform:
    """The same stores, with another value of `MLPL_ENCODER`."""
    settings = platform.settings.model_copy(update={"encoder": name})
    return Platform(settings=settings, database=platform.database, objects=platform.objects)


def roles_id(platform: Platform) -> str:
    """Id of the document that says which encoder serves and which one is wanted."""
    # A changed MLPL_ENCODER is a decision of its own, and no earlier switch overrules it.
    return f"roles of {weights.name_of(platform)}"


def choice_of(platform: Platform) -> EncoderChoice | None:
    """What was decided for this value of `MLPL_ENCODER`, whatever the fleet was switched to."""
    found = platform.database.encoders.find_one({"_id": weights.name_of(platform)}, {"_id": 0})
    return EncoderChoice(**found) if found else None


@contextmanager
def choice_announced(platform: Platform, say: Callable[[str], object]) -> Iterator[None]:
    """Says so where the block settles on the small encoder; from then on `mlpl status` and `mlpl encoder list` do."""
    before = chosen(platform)
    yield
    choice = chosen(platform)
    if choice is not None and choice.notice and choice != before:
        say(choice.notice)


def current_encoder_id(platform: Platform) -> str | None:
    """The id of the fleet's encoder, or None when none was loaded yet."""
    choice = chosen(platform)
    return choice.encoder_id if choice else None


def forget_choice(platform: Platform) -> None:
    """Lets the next `load_encoder` decide anew, for example when weights have become available. The fleet is then embedded again."""
    platform.database.encoders.delete_one({"_id": weights.name_of(serving(platform))})


def load_encoder(platform: Platform) -> Encoder:
    """Loads the encoder that serves this fleet; see `load_named`."""
    return load_named(serving(platform))


def load_named(platform: Platform) -> Encoder:
    """Loads the encoder that `MLPL_ENCODER` names, whatever the fleet was switched to, and decides which that is when it is the first time.

    Raises:
        InvalidInput: `MLPL_ENCODER` names no such model or folder.
        BackendUnavailable: The fleet's encoder was decided on and its weights cannot be had on this machine.
        Conflict: The weights are not those that the fleet was embedded with.
    """
    choice = choice_of(platform)
    if choice is None or (choice.kind == "small" and choice.encoder_id != weights.small().encoder_id):
        # A later MLPL ships a better small encoder, and the old one is gone with the old MLPL.
        choice = _decide(platform, replaces=choice)
    if choice.kind == "small":
        found = weights.small()
    else:
        try:
            found = weights.configured(platform)
        except weights.CannotBeHad as exc:
            raise BackendUnavailable(
                f"this fleet uses encoder {choice.encoder_id}, whose weights cannot be had here: {exc}",
                retry_after_s=60,
            ) from exc
    if found.encoder_id != choice.encoder_id:
        raise Conflict(
            f"{choice.configured} now means encoder {found.encoder_id}, but this fleet was embedded with {choice.encoder_id}; "
            "give changed weights a name of their own in MLPL_ENCODER"
        )
    return Encoder(found, device=platform.settings.device, notice=choice.notice)


def _decide(platform: Platform, *, replaces: EncoderChoice | None) -> EncoderChoice:
    """Settles which encoder the setting means; of several processes that do so at once, the first one's answer counts."""
    configured = weights.name_of(platform)
    found, kind, notice = _within_reach(platform, configured)
    fresh = EncoderChoice(
        configured=configured,
        encoder_id=found.encoder_id,
        kind=kind,
        notice=notice,
        chosen_at=datetime.now(UTC),
    )
    collection = platform.database.encoders
    if replaces is not None:
        retrying(lambda: collection.delete_one({"_id": configured, "encoder_id": replaces.encoder_id}))
    retrying(lambda: collection.update_one({"_id": configured}, {"$setOnInsert": asdict(fresh)}, upsert=True))
    settled = choice_of(platform) or fresh
    _log.info("encoder_chosen", configured=configured, encoder_id=settled.encoder_id, kind=settled.kind)
    return settled


def _within_reach(platform: Platform, configured: str) -> tuple[Weights, Kind, str | None]:
    """The weights to use, whose they are, and what to tell people when they are the small encoder's."""
    if configured == weights.SMALL:
        return weights.small(), "small", f"using {_SMALL_ONE}"
    try:
        return weights.configured(platform), "configured", None
    except weights.CannotBeHad as exc:
        return weights.small(), "small", f"encoder {configured} cannot be had here ({exc}): using {_SMALL_ONE}"
