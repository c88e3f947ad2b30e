"""Who may see the page, asked before viser serves a file or opens a WebSocket.

Whoever opens the page gives its token once, as `?token=…`; a cookie carries it from then on. With a
token or without: a script of another site may not talk to the page through its visitor's browser.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http
from collections.abc import Callable, Iterator
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

import websockets.asyncio.server
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from streamer.preflight import is_loopback

Check = Callable[[Any, Request], Response | None]


class Door:
    """Lets a request through or answers it.

    Args:
        host: address that the page is served on.
        token: what a visitor has to know; None: nothing.
    """

    def __init__(self, host: str, token: str | None) -> None:
        self._loopback = is_loopback(host)
        self._token = token
        self.installed = False
        """Whether viser's server asks here."""
        # Cookies do not know ports: each page has a name of its own for its token.
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        self._cookie = f"splatstream_{digest[:12]}"

    def check(self, request: Request) -> Response | None:
        """None for a request that may go on, else the answer to it."""
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        if len(hosts) != 1 or any(_netloc(origin) != hosts[0].lower() for origin in origins):
            return _answer(http.HTTPStatus.FORBIDDEN, "this page answers to its own address only")
        if self._token is None:
            # A foreign name that was made to point here would be an origin of its own.
            if self._loopback and not is_loopback(_hostname(hosts[0])):
                text = "this page is for this machine: open it as localhost or 127.0.0.1"
                return _answer(http.HTTPStatus.FORBIDDEN, text)
            return None
        if self._knows_cookie(request):
            return None
        if _same(_given(request.path), self._token):
            # Off to the address without the token, which would stay in the history and be copied.
            cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            return _answer(http.HTTPStatus.SEE_OTHER, "", {"Location": "/", "Set-Cookie": cookie})
        text = "this page asks for its token: open it with ?token= and the content of its file"
        return _answer(http.HTTPStatus.UNAUTHORIZED, text)

    @contextlib.contextmanager
    def before_viser(self) -> Iterator[None]:
        """A viser server that is made in this block asks here first.

        viser has no hook of its own for this, so the call by which it starts its server is
        intercepted; `installed` says whether that worked.
        """
        module = websockets.asyncio.server
        serve: Any = module.serve

        def guarded(*args: Any, process_request: Check | None = None, **options: Any) -> Any:
            def check(connection: Any, request: Request) -> Response | None:
                refusal = self.check(request)
                if refusal is not None or process_request is None:
                    return refusal
                return process_request(connection, request)

            self.installed = True
            return serve(*args, process_request=check, **options)

        module.serve = guarded  # type: ignore[assignment, misc]
        try:
            yield
        finally:
            module.serve = serve  # type: ignore[misc]

    def _knows_cookie(self, request: Request) -> bool:
        for header in request.headers.get_all("Cookie"):
            with contextlib.suppress(CookieError):
                found = SimpleCookie(header).get(self._cookie)
                if found is not None and _same(found.value, self._token or ""):
                    return True
        return False


def _same(given: str, token: str) -> bool:
    # Bytes that are no ASCII come as surrogates.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _given(target: str) -> str:
    with contextlib.suppress(ValueError):
        return parse_qs(urlsplit(target).query).get("token", [""])[0]
    return ""


def _netloc(origin: str) -> str | None:
    with contextlib.suppress(ValueError):
        return urlsplit(origin).netloc.lower() or None
    return None


def _hostname(host: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def _answer(status: http.HTTPStatus, text: str, headers: dict[str, str] | None = None) -> Response:
    body = text.encode()
    fields = {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        **(headers or {}),
    }
    return Response(status, status.phrase, Headers(**fields), body)
