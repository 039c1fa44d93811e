"""The errors MLPL raises on purpose: one root, few children, each with a stable `code` and a message that says what to
do next.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MlplError(Exception):
    """Root of all errors that are an answer rather than a bug.

    Attributes:
        code: Stable machine-readable name of the kind of error.
        message: One line for people: what is wrong, about which id, and what to do next.
        details: JSON-friendly facts about the case, for programs.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def __str__(self) -> str:
        return self.message


class NotFound(MlplError):
    """What was named does not exist."""

    code: ClassVar[str] = "not_found"


class Conflict(MlplError):
    """The request contradicts what is already recorded, or someone else is doing it now."""

    code: ClassVar[str] = "conflict"


class InvalidInput(MlplError):
    """What was given cannot be used as it is."""

    code: ClassVar[str] = "invalid_input"


class Denied(MlplError):
    """The caller may not do this, or a credential was refused."""

    code: ClassVar[str] = "denied"


class BackendUnavailable(MlplError):
    """A system MLPL depends on does not answer; the same request may succeed later.

    Attributes:
        retry_after_s: How long to wait before asking again, in seconds.
    """

    code: ClassVar[str] = "backend_unavailable"

    def __init__(self, message: str, /, *, retry_after_s: float = 5.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class StorageFull(BackendUnavailable):
    """A disk or bucket has no room left; nothing was half-written."""

    code: ClassVar[str] = "storage_full"


class UnsupportedPlatform(MlplError):
    """This machine cannot run an embedded part; the message names the setting that replaces it."""

    code: ClassVar[str] = "unsupported_platform"
