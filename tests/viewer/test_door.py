"""The page's door before a real viser server: no file and no WebSocket for whom it refuses."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest
import viser
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from viewer.door import Door
from viewer.page import PageError, open_page

TOKEN = "a-long-and-secret-word-of-40-characters"


@contextlib.contextmanager
def page(token: str | None) -> Iterator[int]:
    server = open_page("127.0.0.1", 0, token)
    try:
        yield server.get_port()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def open_port() -> Iterator[int]:
    with page(None) as port:
        yield port


@pytest.fixture(scope="module")
def locked_port() -> Iterator[int]:
    with page(TOKEN) as port:
        yield port


def get(port: int, path: str = "/", **headers: str) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.content = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def socket_status(port: int, **headers: str) -> int:
    """101 where a WebSocket opens and viser speaks, else the status of the refusal."""
    origin = headers.pop("Origin", None)
    protocol = Subprotocol(f"viser-v{viser.__version__}")
    try:
        with connect(
            f"ws://127.0.0.1:{port}",
            subprotocols=[protocol],
            origin=origin,  # type: ignore[arg-type]
            additional_headers=headers,
            max_size=None,
        ) as websocket:
            assert websocket.recv(timeout=10)
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def test_without_a_token_this_machine_sees_the_page(open_port: int) -> None:
    answer = get(open_port)
    assert answer.status == 200 and b"<html" in answer.content  # type: ignore[attr-defined]
    assert get(open_port, Host=f"localhost:{open_port}").status == 200
    assert get(open_port, Host="[::1]:9000").status == 200, "through a tunnel"
    assert socket_status(open_port) == 101
    assert socket_status(open_port, Origin=f"http://127.0.0.1:{open_port}") == 101


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "x"])
def test_another_sites_script_gets_no_socket(open_port: int, locked_port: int, origin: str) -> None:
    assert socket_status(open_port, Origin=origin) == 403
    cookie = get(locked_port, f"/?token={TOKEN}").headers["Set-Cookie"].partition(";")[0]
    assert socket_status(locked_port, Origin=origin, Cookie=cookie) == 403


def test_a_foreign_name_that_points_here_is_refused(open_port: int) -> None:
    rebound = f"evil.example:{open_port}"
    assert get(open_port, Host=rebound).status == 403
    assert get(open_port, Host=rebound, Origin=f"http://{rebound}").status == 403


def test_with_a_token_nothing_is_served_without_it(locked_port: int) -> None:
    for path in ("/", "/index.html", "/?token=", "/?token=wrong", f"/?x={TOKEN}", "/assets/x.js"):
        answer = get(locked_port, path)
        assert answer.status == 401
        assert b"<html" not in answer.content and b"?token=" in answer.content  # type: ignore[attr-defined]
        assert answer.headers["Set-Cookie"] is None
    assert get(locked_port, Cookie="splatstream_0=x; =;;").status == 401
    assert socket_status(locked_port) == 401


@pytest.mark.parametrize("target", [b"//[", b"/?token=\xff", b"/?token=%ff", b"/?token"])
def test_a_mangled_request_is_refused_like_any_other(locked_port: int, target: bytes) -> None:
    with socket.create_connection(("127.0.0.1", locked_port), timeout=10) as connection:
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % target)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_the_token_becomes_a_cookie_that_opens_page_and_socket(locked_port: int) -> None:
    answer = get(locked_port, f"/?token={TOKEN}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    cookie = cookie.partition(";")[0]
    assert get(locked_port, Cookie=cookie).status == 200
    assert get(locked_port, Cookie=f"other=1; {cookie}", Host="map.example").status == 200
    assert socket_status(locked_port, Cookie=cookie) == 101
    wrong = cookie[:-1] + ("a" if cookie[-1] != "a" else "b")
    assert get(locked_port, Cookie=wrong).status == 401


def test_cookies_of_two_pages_do_not_overwrite_each_other() -> None:
    assert Door("127.0.0.1", TOKEN)._cookie != Door("127.0.0.1", f"{TOKEN}2")._cookie


def test_a_viser_that_does_not_ask_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a later viser started its server in another way: better no page than an open one."""
    monkeypatch.setattr(Door, "before_viser", lambda _: contextlib.nullcontext())
    with pytest.raises(PageError, match="visitors could not be checked"):
        open_page("127.0.0.1", 0, TOKEN)
