"""The web application: API, curator UI and signed images on one FastAPI app."""

from __future__ import annotations

import html
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, FastAPI, Form
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.logs import get_logger
from infra.platform import Platform
from service import access
from service.access import AccessGuard
from service.api import (
    batches,
    concepts,
    datasets,
    errors,
    fleet_map,
    frames,
    images,
    imports,
    models,
    plans,
    search,
    status,
    structure,
    tasks,
    trace,
    webhooks,
    workflows,
)
from service.api.line import Line, OneLine
from service.curator import Curator
from service.reconcile import Reconcilers

log = get_logger(__name__)

WEB = Path(__file__).parent / "web"
_RESOURCES = (
    status,
    search,
    concepts,
    frames,
    structure,
    fleet_map,
    tasks,
    imports,
    plans,
    batches,
    datasets,
    workflows,
    models,
    trace,
    webhooks,
)
_PAGES = (
    "/",
    "/explore",
    "/explore/{view}",
    "/concepts",
    "/concepts/{name}",
    "/plans",
    "/plans/{name}",
    "/new-plan",
    "/batches",
    "/batches/{id}",
    "/models",
    "/workflows/{id}",
    "/trace/{id}",
)


def create_app(
    platform: Platform,
    *,
    curator: Curator | None = None,
    reconcilers: Reconcilers | None = None,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Puts the application together. Whoever runs it starts and stops the reconcilers; served, it loads what searches need.

    Args:
        platform: Stores and settings.
        curator: Shared with the reconcilers, so that the encoder is loaded once; a fresh one without it.
        reconcilers: Those that run in this process, for the status page and to be woken.
        clock: Unix seconds, for sessions.
    """
    line = Line(platform=platform, curator=curator or Curator(platform), reconcilers=reconcilers)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        threading.Thread(target=line.curator.warm_up, name="warm-up", daemon=True).start()
        yield

    app = FastAPI(
        title="MLPL",
        summary="Machine Learning Production Line for fleet camera images.",
        version=metadata.version("mlpl"),
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere; ours works without a network.
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.line = line
    errors.add_to(app, missing_page=WEB / "index.html")
    api = APIRouter(prefix="/api/v1")
    for resource in _RESOURCES:
        api.include_router(resource.router)
    app.include_router(api)
    app.include_router(images.router)
    app.include_router(_pages(platform, clock=clock))
    app.mount("/static", _Assets(directory=WEB))
    app.add_middleware(AccessGuard, settings=platform.settings, clock=clock)
    app.add_middleware(_RequestLog)
    return app


def _pages(platform: Platform, *, clock: Callable[[], float]) -> APIRouter:
    """What is not the API: the UI's shell for each of its routes, the API's documentation, signing in, and the health check."""
    router = APIRouter(include_in_schema=False)
    settings = platform.settings

    def shell() -> Response:
        return FileResponse(WEB / "index.html", headers={"cache-control": "no-cache"})

    for page in _PAGES:
        router.add_api_route(page, shell, methods=["GET"])

    @router.get("/docs")
    def docs() -> Response:
        return FileResponse(WEB / "docs.html", headers={"cache-control": "no-cache"})

    @router.get("/healthz")
    def healthz(line: OneLine) -> Response:
        line.platform.database.command("ping")
        return JSONResponse({"status": "ok"})

    @router.get("/login")
    def login_page(next: str = "/") -> Response:  # noqa: A002 - the name in the address
        return _login_page(next_path=next)

    @router.post("/login")
    def login(token: Annotated[str, Form()], next: Annotated[str, Form()] = "/") -> Response:  # noqa: A002
        if settings.access_token is None or not access.token_fits(settings, token.strip()):
            return _login_page(next_path=next, problem="That is not the access token of this server.")
        answer = RedirectResponse(access.safe_next(next), status_code=303)
        answer.set_cookie(
            access.COOKIE,
            access.make_session(settings.access_token, now=clock()),
            max_age=access.SESSION_S,
            httponly=True,
            samesite="lax",
            secure=(settings.public_url or "").startswith("https://"),
        )
        return answer

    @router.post("/logout")
    def logout() -> Response:
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(access.COOKIE)
        return answer

    return router


def _login_page(*, next_path: str, problem: str = "") -> Response:
    page = (WEB / "login.html").read_text(encoding="utf-8")
    page = page.replace("{{next}}", html.escape(access.safe_next(next_path), quote=True))
    page = page.replace("{{problem}}", html.escape(problem))
    return HTMLResponse(page, status_code=401 if problem else 200, headers={"cache-control": "no-store"})


class _Assets(StaticFiles):
    """Static files that a browser keeps and asks about each time: an upgrade shows at once, and nothing is sent twice."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """The file, to be asked about before it is used again."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


class _RequestLog:
    """ASGI middleware: gives each request an id, in the log lines it causes and in its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex[:12]
        seen: MutableMapping[str, Any] = {}
        began = time.monotonic()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)
            # Not the query: it may hold a signature.
            log.debug(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=seen.get("status"),
                ms=round((time.monotonic() - began) * 1000, 1),
            )
