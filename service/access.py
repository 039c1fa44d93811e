"""Who may talk to the server: the access token, the sign-in cookie, and the guard against pages of other origins.

Without a token the server answers this machine only, and then only when it is called by a loopback name: a page on the internet could
otherwise point a name of its own at 127.0.0.1 and read everything through the curator's browser.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable
from datetime import datetime
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlencode, urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra import signing
from infra.errors import Denied, InvalidInput, MlplError
from infra.platform import Platform
from infra.settings import Settings
from service import labelling

COOKIE = "mlpl_session"
SESSION_S = 14 * 86400
LARGEST_BODY = 64 * 1024 * 1024
LARGEST_IMPORT = 4 * 1024**3
LARGEST_SIGN_IN = 64 * 1024
"""What is read of whoever comes, before anything is known of them."""

_OPEN = ("/healthz", "/login", "/logout")
_OPEN_BELOW = ("/static/", "/images/", "/api/v1/webhooks/")
_IMPORTS = re.compile(r"/api/v1/(?:columns|tasks/[^/]+/predictions)")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def check_binding(settings: Settings) -> None:
    """Refuses to serve other machines without an access token.

    Raises:
        Denied: The host is not loopback and no token is set.
    """
    if settings.access_token is None and not is_loopback(settings.host):
        raise Denied(
            f"refusing to serve on {settings.host} without an access token; set MLPL_ACCESS_TOKEN, or serve on 127.0.0.1",
            host=settings.host,
        )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine and can be reached from it alone."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def signed_image_url(platform: Platform, frame_id: str, *, now: datetime) -> str:
    """A URL under which an annotator's browser gets a frame's image, without a token, until it expires."""
    path = f"/images/{frame_id}"
    expires_at = int(now.timestamp()) + platform.settings.image_url_lifetime_s
    signature = signing.sign(signing.secret(platform.database), path, expires_at=expires_at)
    return f"{labelling.public_url(platform)}{path}?{urlencode({'expires': expires_at, 'signature': signature})}"


def token_fits(settings: Settings, presented: str) -> bool:
    """Compares in constant time."""
    expected = settings.access_token
    return expected is not None and hmac.compare_digest(_bytes_of(expected), presented.encode(errors="replace"))


def make_session(token: SecretStr, *, now: float) -> str:
    """The value of the sign-in cookie. It proves knowledge of the token, so every server process takes it and a new token ends it."""
    expires_at = int(now) + SESSION_S
    return f"{expires_at}.{signing.sign(_session_key(token), 'session', expires_at=expires_at, purpose='cookie')}"


def session_fits(token: SecretStr, value: str, *, now: float) -> bool:
    """Whether a cookie was made by `make_session` with this token and has not expired."""
    expires, _, signature = value.partition(".")
    if not expires.isdecimal() or len(expires) > 12:
        return False
    try:
        signing.verify(
            _session_key(token), "session", expires_at=int(expires), signature=signature, now=now, purpose="cookie"
        )
    except Denied:
        return False
    return True


def safe_next(path: str) -> str:
    """Where to go after signing in: a path of ours, whatever the link said."""
    parts = urlsplit(path)
    harmless = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.netloc and path.isprintable()
    return path if harmless else "/"


def largest_body(path: str) -> int:
    """The most bytes that a request to a path may send."""
    if path == "/login":
        return LARGEST_SIGN_IN
    return LARGEST_IMPORT if _IMPORTS.fullmatch(path) else LARGEST_BODY


class AccessGuard:
    """ASGI middleware: lets a request in, or answers it."""

    def __init__(self, app: ASGIApp, *, settings: Settings, clock: Callable[[], float]) -> None:
        """Wraps `app`.

        Args:
            app: What is guarded.
            settings: Token, host and public address.
            clock: Unix seconds.
        """
        self._app = app
        self._settings = settings
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_security_headers(MutableHeaders(scope=message), path=path)
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        await (refusal or self._app)(scope, _measured(receive, most=largest_body(path)), send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        path, method = str(scope["path"]), str(scope["method"])
        is_open = path in _OPEN or path.startswith(_OPEN_BELOW)
        said, most = headers.get("content-length", ""), largest_body(path)
        if said.isdecimal() and int(said[:20]) > most:
            return _answer(InvalidInput(_too_large(most)), status=413)
        if not is_open and self._settings.access_token is None and not self._is_our_host(headers):
            return _answer(
                Denied(
                    f"this server does not answer to the name {headers.get('host', '')!r}; "
                    "call it 127.0.0.1 or localhost, or set MLPL_PUBLIC_URL or MLPL_ACCESS_TOKEN"
                ),
                status=403,
            )
        if method not in _SAFE_METHODS and _is_foreign(headers, settings=self._settings):
            return _answer(Denied("this request comes from a page of another site"), status=403)
        if is_open or self._is_known(headers):
            return None
        if method == "GET" and "text/html" in headers.get("accept", ""):
            query = scope["query_string"].decode("latin-1")
            wanted = f"{path}?{query}" if query else path
            return RedirectResponse(f"/login?{urlencode({'next': wanted})}", status_code=303)
        return _answer(Denied("an access token is needed: send it as `Authorization: Bearer ...`"), status=401)

    def _is_our_host(self, headers: Headers) -> bool:
        name = _host_name(headers.get("host", ""))
        ours = {self._settings.host, _host_name(urlsplit(self._settings.public_url or "").netloc)}
        return is_loopback(name) or name in ours - {""}

    def _is_known(self, headers: Headers) -> bool:
        token = self._settings.access_token
        if token is None:
            return True
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token_fits(self._settings, presented.strip()):
            return True
        return session_fits(token, _cookie(headers), now=self._clock())


def _is_foreign(headers: Headers, *, settings: Settings) -> bool:
    """Whether a browser says that another site's page makes this request. Programs send neither header."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    ours = {headers.get("host", ""), urlsplit(settings.public_url or "").netloc}
    return urlsplit(origin).netloc not in ours - {""}


def _measured(receive: Receive, *, most: int) -> Receive:
    """Ends a request that sends more than it may without having said how much it will be."""
    seen = 0

    async def measured() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body") or b"")
        if seen > most:
            raise HTTPException(413, _too_large(most))
        return message

    return measured


def _too_large(most: int) -> str:
    return f"the request is larger than the {most // 2**10:,} KiB that are taken here"


def _answer(error: MlplError, *, status: int) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    body = {"code": error.code, "message": error.message, "details": error.details}
    return JSONResponse(body, status_code=status, headers=headers)


def _add_security_headers(headers: MutableHeaders, *, path: str) -> None:
    headers.setdefault("content-security-policy", _POLICY)
    headers.setdefault("x-content-type-options", "nosniff")
    headers.setdefault("referrer-policy", "same-origin")
    headers.setdefault("x-frame-options", "DENY")
    if path.startswith("/api/"):
        headers.setdefault("cache-control", "no-store")
    if not path.startswith("/images/"):
        headers.setdefault("cross-origin-resource-policy", "same-origin")


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _host_name(netloc: str) -> str:
    return netloc[: netloc.find("]") + 1].strip("[]") if netloc.startswith("[") else netloc.partition(":")[0]


def _session_key(token: SecretStr) -> bytes:
    return hashlib.sha256(b"mlpl session\0" + _bytes_of(token)).digest()


def _bytes_of(token: SecretStr) -> bytes:
    return token.get_secret_value().encode()
