"""What the publisher makes of a map, files and pictures, and the reasons why it does not."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest
import zmq
from publisher_helpers import Feed, heard

from gs_decoder import SurfaceRenderer, decode_ply, render_view
from streamer.protocol.messages import CameraHeader
from streamer.requests import Requests


def test_export_is_the_map(feed: Feed, requests: Requests) -> None:
    for seed in (5, 6):
        feed.perform(("add", seed, 50))
    heard(requests, feed)
    content = decode_ply(requests.export("kitchen"))
    expected = feed.map.splats_world()
    got = content.splats.means.numpy() + content.offset
    assert np.allclose(got, expected.means.numpy(), atol=1e-4)
    assert content.splats.sh_degree == expected.sh_degree


def test_render_shows_the_map(feed: Feed, requests: Requests) -> None:
    feed.perform(("add", 5, 3000))
    heard(requests, feed)
    centre = feed.map.splats_world().means.numpy().astype(np.float64).mean(0)
    c2w = np.eye(4)
    c2w[:3, 3] = centre - (0, 0, 12)
    camera = CameraHeader(model="PINHOLE", width=64, height=48, params=[60.0, 60.0, 32.0, 24.0])
    picture = requests.render("kitchen", c2w, camera)
    assert picture.rgb().shape == (48, 64, 3)
    assert 0.05 < picture.alpha_mean <= 1
    assert picture.rgb().std() > 5
    away = c2w.copy()
    away[:3, 3] -= (0, 0, 1e4)
    away[:3, :3] = np.diag([-1.0, 1.0, -1.0])
    empty = requests.render("kitchen", away, camera)
    assert empty.alpha_mean == 0
    assert empty.rgb().max() == 0


def test_render_with_background_alpha_and_depth(feed: Feed, requests: Requests) -> None:
    feed.perform(("add", 5, 3000))
    heard(requests, feed)
    splats = feed.map.splats_world()
    c2w = np.eye(4)
    c2w[:3, 3] = splats.means.numpy().astype(np.float64).mean(0) - (0, 0, 12)
    camera = CameraHeader(model="PINHOLE", width=64, height=48, params=[20.0, 20.0, 32.0, 24.0])
    K = [[20.0, 0.0, 32.0], [0.0, 20.0, 24.0], [0.0, 0.0, 1.0]]
    expected = render_view(splats, c2w, K, 64, 48)
    rgb, alpha = expected.rgb.numpy(), expected.alpha.numpy()[..., None]

    blue = requests.render("kitchen", c2w, camera, background=(0.0, 0.0, 1.0)).rgb() / 255
    assert np.abs(blue - np.clip(rgb + (1 - alpha) * (0, 0, 1), 0, 1)).max() < 0.01
    cut = requests.render("kitchen", c2w, camera, rgba=True).rgba() / 255
    assert cut.shape == (48, 64, 4)
    assert np.abs(cut[..., 3:] - alpha).max() < 0.003
    assert np.abs(cut[..., :3] * alpha - np.clip(rgb, 0, alpha)).max() < 0.01

    picture = requests.render("kitchen", c2w, camera, depth=True)
    depth = picture.depth()
    seen = alpha[..., 0] >= 0.5
    assert 0.05 < seen.mean() < 0.95
    assert not depth[~seen].any()
    # The depth of surfaces, which is not the mean of all that these splats show in a pixel.
    surface = SurfaceRenderer(splats).render(c2w, K, 64, 48).depth
    assert np.abs(depth - surface)[seen].max() <= 0.51 * picture.depth_unit_m
    assert np.abs(depth - expected.depth.numpy())[seen].max() > 100 * picture.depth_unit_m
    assert np.array_equal(picture.rgb(), requests.render("kitchen", c2w, camera).rgb())
    assert picture.depth_unit_m == 0.001


def test_depth_beyond_sixty_metres_takes_larger_steps(feed: Feed, requests: Requests) -> None:
    feed.perform(("add", 5, 3000))
    heard(requests, feed)
    c2w = np.eye(4)
    c2w[:3, 3] = feed.map.splats_world().means.numpy().astype(np.float64).mean(0) - (0, 0, 500)
    camera = CameraHeader(model="PINHOLE", width=64, height=48, params=[2500.0, 2500.0, 32.0, 24.0])
    picture = requests.render("kitchen", c2w, camera, depth=True)
    depth = picture.depth()
    assert 490 < depth.max() < 510
    assert picture.depth_unit_m == pytest.approx(float(depth.max()) / 65535, rel=1e-3)


PINHOLE = {"model": "PINHOLE", "width": 32, "height": 24, "params": [20.0, 20.0, 16.0, 12.0]}
POSE = np.eye(4).reshape(-1).tolist()


@pytest.mark.parametrize(
    ("kind", "header", "code", "words"),
    [
        (b"SNAPSHOT", {"session": "attic", "have": [], "epoch": 0}, "bad_session", "attic"),
        (b"SNAPSHOT", {"session": "kitchen", "epoch": 0}, "bad_header", "have"),
        (b"SNAPSHOT", {"have": [], "epoch": 0}, "bad_header", "session"),
        (
            b"SNAPSHOT",
            {"session": "kitchen", "have": [], "epoch": 0, "codec": "spz"},
            "internal",
            "spz",
        ),
        (
            b"SNAPSHOT",
            {"session": "kitchen", "have": [], "epoch": 0, "codec": "zip"},
            "bad_header",
            "zip",
        ),
        (
            b"SNAPSHOT",
            {"session": "kitchen", "have": [[1, 2]], "epoch": 0},
            "bad_header",
            "have",
        ),
        (
            b"SNAPSHOT",
            {"session": "kitchen", "have": [], "epoch": 0, "max_splats": -1},
            "bad_header",
            "max_splats",
        ),
        (b"EXPORT", {"session": "kitchen", "format": "spz"}, "internal", "spz"),
        (b"EXPORT", {"session": "kitchen", "format": "exe"}, "bad_header", "exe"),
        (b"LOCALIZE", {"session": "kitchen"}, "internal", "LOCALIZE"),
        (b"NONSENSE", {}, "bad_header", "NONSENSE"),
        (
            b"RENDER",
            {"session": "kitchen", "c2w": [1.0] * 15, "camera": PINHOLE},
            "bad_header",
            "c2w",
        ),
        (
            b"RENDER",
            {"session": "kitchen", "c2w": [1.0] * 16, "camera": PINHOLE},
            "bad_pose",
            "c2w",
        ),
        (
            b"RENDER",
            {"session": "kitchen", "c2w": [float("nan")] * 16, "camera": PINHOLE},
            "bad_pose",
            "finite",
        ),
        (
            b"RENDER",
            {"session": "kitchen", "c2w": POSE, "camera": {**PINHOLE, "model": "PINHOL"}},
            "bad_camera",
            "PINHOL",
        ),
        (
            b"RENDER",
            {"session": "kitchen", "c2w": POSE, "camera": {**PINHOLE, "params": [1.0]}},
            "bad_camera",
            "params",
        ),
        (
            b"RENDER",
            {
                "session": "kitchen",
                "c2w": POSE,
                "camera": {**PINHOLE, "width": 16000, "height": 16000},
            },
            "too_large",
            "16000",
        ),
        (
            b"RENDER",
            {"session": "kitchen", "c2w": POSE, "camera": PINHOLE, "background": [0, 0, 2.0]},
            "bad_header",
            "background",
        ),
        (
            b"RENDER",
            {
                "session": "kitchen",
                "c2w": POSE,
                "camera": PINHOLE,
                "background": [0, 0, 0],
                "rgba": True,
            },
            "bad_header",
            "rgba",
        ),
    ],
)
def test_what_cannot_be_met_is_answered_with_the_reason(
    feed: Feed,
    requests: Requests,
    addresses: dict[str, str],
    kind: bytes,
    header: dict[str, object],
    code: str,
    words: str,
) -> None:
    heard(requests, feed)
    answer = raw_request(addresses["requests"], [kind, msgpack.packb({**header, "id": 17})])
    assert answer["id"] == 17
    assert answer["code"] == code
    assert words in answer["reason"]
    assert requests.sessions()[0].session == "kitchen"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b""], "bad_header"),
        ([b"STATUS", b"\xc1"], "bad_header"),
        ([b"STATUS", b"\x93\x01\x02\x03"], "bad_header"),
        ([b"STATUS", msgpack.packb({"session": "x" * 70_000})], "too_large"),
        # Headers that may be large: what is quoted or echoed of them may not.
        ([b"MANIFEST", msgpack.packb({"session": "x" * 70_000})], "bad_session"),
        ([b"SESSIONS", msgpack.packb({"id": "x" * 65_000})], "bad_header"),
        ([b"STATUS", msgpack.packb({"session": msgpack.ExtType(5, b"x")})], "bad_header"),
        ([b"STATUS", b"\x80", *[b"x"] * 40], "too_large"),
        ([b"\xff\xfe", b"\x80"], "bad_header"),
    ],
)
def test_garbage_is_answered_and_nothing_breaks(
    requests: Requests, addresses: dict[str, str], frames: list[bytes], code: str
) -> None:
    assert raw_request(addresses["requests"], frames)["code"] == code
    assert requests.sessions() == []


def raw_request(address: str, frames: list[bytes]) -> dict[str, object]:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address)
    try:
        socket.send_multipart(frames)
        assert socket.poll(20_000), "no answer"
        kind, header, *_ = socket.recv_multipart()
        assert kind == b"ERROR"
        return msgpack.unpackb(header)  # type: ignore[no-any-return]
    finally:
        socket.close()
