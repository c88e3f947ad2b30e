"""What a running daemon tells its operators: metrics, structured logs, and its service manager."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import msgpack
import pytest
from daemon_helpers import Daemon, Sender, run_serve, running_daemon, wait_until
from prometheus_client.parser import text_string_to_metric_families

WATCHDOG_S = 4.0


@dataclass
class Watched:
    """A daemon under a service manager, with a metrics page and JSON logs."""

    daemon: Daemon
    manager: socket.socket
    url: str

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, `name{a=1,b=2}`."""
        with urlopen(self.url, timeout=30) as page:
            text = page.read().decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
        return found

    def wait_for(self, sample: str, value: float) -> None:
        """Until a sample is at least this."""
        wait_until(lambda: self.metrics().get(sample, -1.0) >= value, f"{sample} {value}")

    def heard(self) -> list[str]:
        """What the service manager was told since."""
        messages = []
        while True:
            try:
                messages.append(self.manager.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="sst-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        address = str(Path(folder) / "notify")
        manager.bind(address)
        manager.setblocking(False)
        patch.setenv("NOTIFY_SOCKET", address)
        patch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
        options = ["--no-viewer", "--metrics-port", "0", "--log-json", "--max-sessions", "1"]
        with running_daemon(*options) as daemon:
            yield Watched(daemon, manager, daemon.ready_line.split(" metrics ")[1].strip())


def test_the_manager_hears_that_the_daemon_is_ready_and_lives(watched: Watched) -> None:
    said: list[str] = []

    def complete() -> bool:
        said.extend(watched.heard())
        return "READY=1" in said and "WATCHDOG=1" in said

    wait_until(complete, "READY=1 and WATCHDOG=1")
    assert said[0] == "READY=1" or said.index("READY=1") < said.index("WATCHDOG=1")


def test_a_stream_is_counted_and_timed(watched: Watched) -> None:
    sender = Sender(watched.daemon.addresses["ingest"], "counted")
    sender.hello()
    for _ in range(8):
        sender.send()
    torn = {"seq": 8, "stamp_ns": 5, "camera": "front", "encoding": "jpeg"}
    torn |= {"width": 64, "height": 48, "pose": [float(i % 5 == 0) for i in range(16)]}
    sender.socket.send_multipart([b"FRAME", msgpack.packb(torn), b"no picture"])
    assert sender.answer({"REJECT"})["code"] == "bad_image"
    watched.wait_for("splatstream_frames_done_total{session=counted}", 8)
    watched.wait_for("splatstream_frames_rejected_total{session=counted}", 1)
    watched.wait_for("splatstream_splats{session=counted}", 1)
    metrics = watched.metrics()
    splats = metrics["splatstream_splats{session=counted}"]
    assert metrics["splatstream_splats_ready{session=counted}"] == splats
    assert metrics["splatstream_splats_on_disk{session=counted}"] == 0
    assert metrics["splatstream_frames_total{session=counted}"] == 8
    assert metrics["splatstream_durable{session=counted}"] == 1
    assert metrics["splatstream_frames_dropped_total{session=counted}"] == 0
    for reason in ("newer", "memory", "lost"):
        assert metrics[f"splatstream_drops_total{{reason={reason}}}"] == 0
    assert metrics["splatstream_frames_waiting{session=counted}"] == 0
    assert metrics["splatstream_refusals_total{code=bad_image}"] == 1
    # Eight pictures were decoded; the torn one was found out by its header, or by the decoder.
    assert metrics["splatstream_ingest_stage_seconds_count{stage=decode}"] in (8, 9)
    assert metrics["splatstream_ingest_stage_seconds_count{stage=queue}"] == 8
    assert metrics["splatstream_frame_latency_seconds_count{session=counted}"] == 8
    batches = metrics["splatstream_session_stage_seconds_count{session=counted,stage=batch}"]
    assert 1 <= batches <= 8
    stages = {
        stage: metrics[f"splatstream_session_stage_seconds_sum{{session=counted,stage={stage}}}"]
        for stage in ("batch", "keyframes", "predict", "fuse", "publish")
    }
    assert all(seconds > 0.0 for seconds in stages.values())
    assert sum(stages.values()) - stages["batch"] <= stages["batch"] * 1.001
    assert metrics["splatstream_updates_total{kind=chunk}"] >= 1
    assert metrics["splatstream_update_bytes_total{}"] > 1000
    states = [name for name in metrics if name.startswith("splatstream_session_state{")]
    assert len(states) == 1
    pose = [1.0, 0.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    sender.socket.send_multipart(
        [b"POSES", msgpack.packb({"revision": 1, "poses": [[0, pose]], "upto": 7})]
    )
    assert sender.answer({"POSES_ACK"})["moved"] >= 1
    times = "splatstream_session_stage_seconds_{}{{session=counted,stage={}}}"
    watched.wait_for(times.format("count", "correction"), 1)
    metrics = watched.metrics()
    assert metrics[times.format("count", "correct")] == 1
    # The way through two processes is in it.
    told, of_these = (metrics[times.format("sum", s)] for s in ("correction", "correct"))
    assert told > of_these > 0.0
    sender.close()


def test_the_operators_page_explains_every_metric_and_no_other(watched: Watched) -> None:
    with urlopen(watched.url, timeout=30) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    there = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"\bsplatstream_\w+", row)} == there


def test_processes_and_readers_are_seen(watched: Watched) -> None:
    # The supervisor listens itself.
    watched.wait_for("splatstream_subscribers{}", 1)
    with socket.create_connection(
        ("127.0.0.1", int(watched.daemon.addresses["updates"].rpartition(":")[2]))
    ):
        watched.wait_for("splatstream_subscribers{}", 2)
    wait_until(lambda: watched.metrics()["splatstream_subscribers{}"] == 1, "the reader to be gone")
    metrics = watched.metrics()
    for process in ("ingest", "publisher"):
        assert metrics[f"splatstream_up{{process={process}}}"] == 1
        assert metrics[f"splatstream_resident_bytes{{process={process}}}"] > 10e6
        assert metrics[f"splatstream_cpu_seconds_total{{process={process}}}"] > 0


def test_a_stopped_process_starves_the_watchdog(watched: Watched) -> None:
    (publisher,) = watched.daemon.children()["publisher"]
    os.kill(publisher, signal.SIGSTOP)
    try:
        # Its last words count for half the watchdog's patience.
        time.sleep(WATCHDOG_S / 2 + 1.0)
        watched.heard()
        time.sleep(WATCHDOG_S / 4 + 0.5)
        assert "WATCHDOG=1" not in watched.heard()
    finally:
        os.kill(publisher, signal.SIGCONT)
    wait_until(lambda: "WATCHDOG=1" in watched.heard(), "the watchdog to be petted again")


def test_restarts_are_counted_and_counters_go_on(watched: Watched) -> None:
    before = watched.metrics()
    assert before["splatstream_restarts_total{role=ingest}"] == 0
    watched.daemon.kill("ingest")
    watched.wait_for("splatstream_restarts_total{role=ingest}", 1)
    sender = Sender(watched.daemon.addresses["ingest"], "counted")
    sender.socket.send_multipart([b"WHAT", msgpack.packb({})])
    assert sender.answer({"ERROR"})["code"] == "bad_header"
    sender.close()
    watched.wait_for("splatstream_refusals_total{code=bad_header}", 1)
    assert watched.metrics()["splatstream_refusals_total{code=bad_image}"] == 1
    assert watched.metrics()["splatstream_restarts_total{role=publisher}"] == 0


def test_every_log_line_is_an_object(watched: Watched) -> None:
    seen = defaultdict(list)
    for line in watched.daemon.log_text().splitlines():
        fields = json.loads(line)
        assert {"time", "level", "process", "message"} <= fields.keys()
        seen[fields["process"]].append(fields)
    assert {"supervisor", "ingest"} <= seen.keys()
    (refusal, *_) = [fields for fields in seen["ingest"] if "bad_image" in fields["message"]]
    assert refusal["level"] == "warning" and refusal["logger"] == "streamer.ingest.door"
    assert any("ended with status -9" in fields["message"] for fields in seen["supervisor"])


def test_the_page_is_off_by_default_and_refuses_the_network(tmp_path: Path) -> None:
    refused = run_serve(tmp_path, "--metrics-port", "0", "--metrics-host", "0.0.0.0")
    assert refused.returncode == 2
    assert "metrics.host: 0.0.0.0 is not a loopback address" in refused.stderr
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = run_serve(tmp_path, "--metrics-port", str(port))
    assert taken.returncode == 2
    assert f"--metrics-port: 127.0.0.1:{port} cannot be bound" in taken.stderr
    assert "Traceback" not in taken.stderr
    assert list(tmp_path.glob("splatstream-*")) == []
