"""watch, export and the mirroring example against a publisher with a map."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from map_strategies import random_similarity
from publisher_helpers import Feed, repeating, running_publisher, serving, wait_for

from gs_decoder import read_ply
from streamer.cli import dispatch
from streamer.protocol.requests import KeyframeEntry
from streamer.requests import RequestRefused, Requests

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Feed, dict[str, str]]]:
    """A publisher with a map of three chunks, and the session behind it."""
    with running_publisher(tmp_path) as addresses:
        feed = Feed(tmp_path, "barn")
        for seed in (1, 2, 3):
            feed.perform(("add", seed, 40))
            feed.add_keyframe(
                KeyframeEntry(
                    seq=seed,
                    stamp_ns=seed,
                    camera="front",
                    chunk=seed,
                    c2w=random_similarity(seed).reshape(-1).tolist(),
                )
            )
        feed.say_status(frames_in=3, frames_done=3, keyframes=3, splats=120, state="idle")
        with serving(feed), Requests(addresses["requests"]) as requests:

            def there() -> bool:
                try:
                    return requests.status("barn").state == "idle"
                except RequestRefused:
                    return False

            wait_for(there, "the publisher to hold the map")
            yield feed, addresses
        feed.close()


def both(addresses: dict[str, str]) -> list[str]:
    return [addresses["requests"], "--updates", addresses["updates"]]


def test_export_writes_the_map(daemon: tuple[Feed, dict[str, str]], tmp_path: Path) -> None:
    feed, addresses = daemon
    out = tmp_path / "some" / "map.ply"
    arguments = ["export", addresses["updates"], "--requests", addresses["requests"]]
    assert dispatch([*arguments, "--session", "barn", "--out", str(out)]) == 0
    content = read_ply(out)
    expected = feed.map.splats_world().means.numpy()
    assert np.allclose(content.splats.means.numpy() + content.offset, expected, atol=1e-4)
    assert [path.name for path in out.parent.iterdir()] == ["map.ply"]


@pytest.mark.parametrize(
    ("out", "session", "words"),
    [
        ("map.spz", "barn", "'spz'"),
        ("map.xyz", "barn", "'xyz'"),
        ("map", "barn", "ending"),
        ("map.ply", "shed", "'shed'"),
    ],
)
def test_export_says_what_it_cannot_do(
    daemon: tuple[Feed, dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    out: str,
    session: str,
    words: str,
) -> None:
    _, addresses = daemon
    arguments = ["export", addresses["updates"], "--requests", addresses["requests"]]
    path = tmp_path / out
    assert dispatch([*arguments, "--session", session, "--out", str(path)]) == 2
    assert words in capsys.readouterr().err
    assert not path.exists()


def test_watch_tells_the_status(
    daemon: tuple[Feed, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    feed, addresses = daemon
    with repeating(lambda: feed.say_status(frames_in=4, frames_done=3, state="streaming")):
        assert dispatch(["watch", *both(addresses), "--seconds", "6"]) == 0
    out = capsys.readouterr().out
    assert "barn: streaming" in out
    assert "3/4 frames" in out


def test_watch_mirrors_the_map_to_a_file(
    daemon: tuple[Feed, dict[str, str]], tmp_path: Path
) -> None:
    feed, addresses = daemon
    ply = tmp_path / "mirror.ply"
    arguments = ["watch", *both(addresses), "--session", "barn", "--ply", str(ply)]
    assert dispatch([*arguments, "--seconds", "6"]) == 0
    content = read_ply(ply)
    expected = feed.map.splats_world().means.numpy()
    got = content.splats.means.numpy() + content.offset
    assert np.allclose(np.sort(got, 0), np.sort(expected, 0), atol=1e-4)


def test_the_mirroring_example(daemon: tuple[Feed, dict[str, str]], tmp_path: Path) -> None:
    _, addresses = daemon
    out = tmp_path / "view.png"
    command = [sys.executable, str(ROOT / "examples" / "04_mirror_and_render.py")]
    command += ["--updates", addresses["updates"], "--requests", addresses["requests"]]
    result = subprocess.run(
        [*command, "--seconds", "8", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "120 splats at seq 3" in result.stdout
    assert out.stat().st_size > 100
