"""The recipe of docs/security.md in a real nginx, before a real page with a token."""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPResponse, HTTPSConnection
from pathlib import Path

import pytest
import viser
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from viewer.page import open_page

pytestmark = [
    pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx (apt: nginx-light)"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, for a certificate"),
]
TOKEN = "a-long-and-secret-word-of-40-characters"
SITE = "https://map.example.org"
PASSWORD = "Basic " + base64.b64encode(b"ada:secret").decode()
DOCS = Path(__file__).parents[2] / "docs" / "security.md"


def recipe(folder: Path, port: int, page_port: int) -> str:
    """The recipe as it is printed, but for its files and ports, and what lets any user run it."""
    found = re.search(r"^```\n(server \{\n.*?^\}\n)```$", DOCS.read_text(), re.M | re.S)
    assert found is not None, "docs/security.md has no recipe for nginx"
    server = found[1]
    for printed, here in (
        ("443 ssl", f"127.0.0.1:{port} ssl"),
        ("127.0.0.1:8080", f"127.0.0.1:{page_port}"),
        ("/etc/ssl/map.pem", str(folder / "map.pem")),
        ("/etc/ssl/map.key", str(folder / "map.key")),
        ("/etc/nginx/map.htpasswd", str(folder / "map.htpasswd")),
    ):
        assert printed in server, printed
        server = server.replace(printed, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    # Where root starts it, workers would be a user who may not read here.
    user = "user root; " if os.geteuid() == 0 else ""
    return (
        f"{user}daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}\n{server}}}\n"
    )


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    certificate = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "1"]
    certificate += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=map.example.org"]
    certificate += ["-keyout", str(folder / "map.key"), "-out", str(folder / "map.pem")]
    subprocess.run(certificate, check=True, capture_output=True)
    (folder / "map.htpasswd").write_text("ada:{PLAIN}secret\n")
    page = open_page("127.0.0.1", 0, TOKEN)
    (folder / "nginx.conf").write_text(recipe(folder, port, page.get_port()))
    nginx = subprocess.Popen(
        ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert nginx.poll() is None, nginx.stderr and nginx.stderr.read()
                assert time.monotonic() < until, "nginx does not listen"
                time.sleep(0.05)
        yield port
    finally:
        nginx.terminate()
        nginx.wait(20)
        assert nginx.stderr is not None
        nginx.stderr.close()
        page.stop()


def trusting() -> ssl.SSLContext:
    """The certificate is its own authority."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def get(port: int, path: str = "/", **headers: str) -> HTTPResponse:
    connection = HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting())
    connection.request("GET", path, headers={"Host": "map.example.org", **headers})
    answer = connection.getresponse()
    answer.content = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def socket_status(port: int, origin: str, **headers: str) -> int:
    """101 where a WebSocket opens and viser speaks, else the status of the refusal."""
    try:
        with connect(
            f"wss://map.example.org:{port}",
            sock=socket.create_connection(("127.0.0.1", port), 10),
            ssl=trusting(),
            subprotocols=[Subprotocol(f"viser-v{viser.__version__}")],
            origin=origin,  # type: ignore[arg-type]
            additional_headers=headers,
        ) as stream:
            assert stream.recv(timeout=10)
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_password_then_token_then_the_page(proxy: int) -> None:
    assert get(proxy).status == 401
    unknown = get(proxy, Authorization=PASSWORD)
    assert unknown.status == 401
    assert b"token" in unknown.content
    welcome = get(proxy, f"/?token={TOKEN}", Authorization=PASSWORD)
    assert (welcome.status, welcome.headers["Location"]) == (303, "/")
    cookie = welcome.headers["Set-Cookie"].partition(";")[0]
    page = get(proxy, Authorization=PASSWORD, Cookie=cookie)
    assert page.status == 200
    assert b"<html" in page.content
    # The cookie alone is not enough: nginx asks first.
    assert get(proxy, Cookie=cookie).status == 401

    known = {"Authorization": PASSWORD, "Cookie": cookie}
    assert socket_status(proxy, SITE, **known) == 101
    assert socket_status(proxy, "https://evil.example.org", **known) == 403
    assert socket_status(proxy, SITE, Cookie=cookie) == 401


def test_a_script_of_another_site_gets_nothing(proxy: int) -> None:
    for origin in ("https://evil.example.org", "http://map.example.org", f"{SITE}.evil.org"):
        assert get(proxy, Authorization=PASSWORD, Origin=origin).status == 403
    assert get(proxy, f"/?token={TOKEN}", Authorization=PASSWORD, Origin=SITE).status == 303
