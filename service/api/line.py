"""What every endpoint is handed: the platform, the curator, and the reconcilers that run beside the API, if they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from infra.platform import Platform
from service.curator import Curator
from service.reconcile import Reconcilers


@dataclass(frozen=True, kw_only=True)
class Line:
    """One server process's share of the production line."""

    platform: Platform
    curator: Curator
    reconcilers: Reconcilers | None = None

    def wake(self) -> None:
        """Lets the reconcilers look now for what a request has just made possible."""
        if self.reconcilers is not None:
            self.reconcilers.wake()


async def _line(request: Request) -> Line:  # Not async, it would run in a thread of its own.
    line: Line = request.app.state.line
    return line


OneLine = Annotated[Line, Depends(_line)]
