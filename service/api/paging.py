"""Which part of a long list is asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

LARGEST_INT = 2**63 - 1
"""The largest whole number that the database takes."""

Offset = Annotated[int, Query(ge=0, le=LARGEST_INT, description="Entries to leave out.")]
