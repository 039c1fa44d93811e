"""The one place that knows HTTP status codes: every failure leaves as `{"code", "message", "details"}`."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pymongo.errors import PyMongoError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response

from infra.database import as_trouble
from infra.errors import BackendUnavailable, Conflict, Denied, InvalidInput, MlplError, NotFound, StorageFull
from infra.logs import get_logger

log = get_logger(__name__)

_STATUS: dict[type[MlplError], int] = {
    NotFound: 404,
    Conflict: 409,
    InvalidInput: 422,
    Denied: 403,
    StorageFull: 507,
    BackendUnavailable: 503,
}
_HTTP_CODES = {401: "denied", 403: "denied", 404: "not_found", 405: "method_not_allowed", 413: "invalid_input"}


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    code: str
    message: str
    details: dict[str, Any]


RESPONSES: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "What was named does not exist."},
    409: {
        "model": ErrorBody,
        "description": "The request contradicts what is recorded, or someone else is doing it now.",
    },
    413: {"model": ErrorBody, "description": "The request is larger than the server takes."},
    422: {"model": ErrorBody, "description": "What was given cannot be used; the message says why."},
    503: {
        "model": ErrorBody,
        "description": "A system behind the API does not answer; Retry-After says when to ask again.",
    },
}


def add_to(app: FastAPI, *, missing_page: Path) -> None:
    """Installs the handlers.

    Args:
        app: Where to.
        missing_page: What a person's browser gets where there is nothing, instead of the body that programs get.
    """

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404 and _is_navigation(request):
            return FileResponse(missing_page, status_code=404, headers={"cache-control": "no-cache"})
        return await _refused(request, error)

    app.add_exception_handler(MlplError, _expected)
    app.add_exception_handler(PyMongoError, _database)
    app.add_exception_handler(OSError, _disk)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, _bug)


def status_of(error: MlplError) -> int:
    """The HTTP status of an error; a child without one of its own has its parent's."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


async def _expected(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MlplError)
    headers = {}
    if isinstance(error, BackendUnavailable):
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
    return _body(status_of(error), error.code, error.message, error.details, headers=headers)


async def _database(request: Request, error: Exception) -> Response:
    trouble = as_trouble(error)
    return await (_bug(request, error) if trouble is None else _expected(request, trouble))


async def _disk(request: Request, error: Exception) -> Response:
    if not (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return await _bug(request, error)
    return await _expected(request, StorageFull("no space left on the server's disk; free some and send it again"))


async def _malformed(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        {"where": ".".join(str(part) for part in problem["loc"]), "problem": problem["msg"]}
        for problem in error.errors()
    ]
    message = "; ".join(f"{one['where']}: {one['problem']}" for one in problems[:3])
    return _body(422, InvalidInput.code, message, {"problems": problems})


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "error")
    return _body(error.status_code, code, str(error.detail), {}, headers=error.headers)


def _is_navigation(request: Request) -> bool:
    is_page = not request.url.path.startswith(("/api/", "/images/", "/static/"))
    return is_page and request.method == "GET" and "text/html" in request.headers.get("accept", "")


async def _bug(request: Request, error: Exception) -> Response:
    log.error("request_crashed", method=request.method, path=request.url.path, exc_info=error)
    return _body(500, "internal", "something went wrong here; the server's log has the details", {})


def _body(
    status: int, code: str, message: str, details: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
) -> Response:
    content = {"code": code, "message": message, "details": jsonable_encoder(details, custom_encoder={bytes: repr})}
    return JSONResponse(content, status_code=status, headers=dict(headers or {}))
