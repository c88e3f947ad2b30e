"""The metrics page while sessions begin and end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import pytest

from streamer.config import MetricsConfig
from streamer.metrics.exporter import DaemonView, MetricsServer
from streamer.metrics.instruments import FOLDER, forget_metrics

LASTING = "session lasting"
FRAMES = "splatstream_frame_latency_seconds_count"
PASSING = [f"session passing{number}" for number in range(40)]
_COUNT = """
import sys
from pathlib import Path
from streamer.config import MetricsConfig, ServeConfig
from streamer.metrics.instruments import SessionInstruments, set_up_metrics
config = ServeConfig(metrics=MetricsConfig(port=0))
set_up_metrics(Path(sys.argv[1]), config, sys.argv[2])
instruments = SessionInstruments("lasting")
for _ in range(3):
    instruments.latency(0.2)
"""


@pytest.fixture
def counted(tmp_path: Path) -> Path:
    """The file of a process that counted three frames."""
    subprocess.run([sys.executable, "-c", _COUNT, str(tmp_path), LASTING], check=True, timeout=60)
    (file,) = (tmp_path / FOLDER).glob("*.db")
    return file


def test_a_scrape_finds_sessions_that_begin_and_end_meanwhile(
    tmp_path: Path, counted: Path
) -> None:
    own = LASTING.encode().hex()
    aside = tmp_path / "aside"
    ended = threading.Event()

    def begin_and_end() -> None:
        while not ended.is_set():
            for name in PASSING:
                path = counted.with_name(counted.name.replace(own, name.encode().hex()))
                # Empty for a moment, as prometheus_client makes it.
                path.touch()
                shutil.copy(counted, aside)
                aside.replace(path)
            for name in PASSING:
                forget_metrics(tmp_path, name)

    server = MetricsServer(MetricsConfig(port=0), tmp_path, DaemonView())
    sessions = threading.Thread(target=begin_and_end)
    sessions.start()
    try:
        for _ in range(100):
            with urlopen(server.url, timeout=30) as page:
                text = page.read().decode()
            (line,) = (x for x in text.splitlines() if x.startswith(FRAMES))
            # The lasting one's, and those of the ones that were there.
            assert float(line.split()[-1]) % 3 == 0 and float(line.split()[-1]) >= 3
    finally:
        ended.set()
        sessions.join()
        server.close()
