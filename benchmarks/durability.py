"""The disk loses its power, or the process its life, at every step that durability rests on.

    python benchmarks/durability.py --json benchmarks/results/durability.json

Three writers, each in a child process that is killed at the n-th write, fsync, rename or cut, for
n = 0, 1, 2 … until one gets through; twice: by SIGKILL alone, and with a disk that then has only
part of what was not synced (`tests/power_cut.py`).

- ingest: the real process, real sockets; frames are sent until it dies, then a successor takes
  over. Before that the journal is recovered by processes that die at each of their steps too.
  Every frame that was acknowledged is in the journal, with its own bytes, and the rest follows.
- state: states are saved one after the other. The newest one that was saved, or a newer one, can
  be read.
- session.json: lives and epochs begin. None that was begun is ever given again.

Exit code 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

# A forked child has none of its parent's threads, and would wait for those of a parallel loop.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

from chaos import ROOT, Report, parser

sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "streamer")]

import numpy as np
from ingest_harness import FakeSession, IngestHarness, running_ingest
from power_cut import PowerCut
from raw_client import RawClient
from save_state import full_engine

from streamer.journal import FrameEntry, Journal, read_journal
from streamer.session.engine_state import engine_state
from streamer.session.folder import begin_epoch, begin_life, read_session_file, states
from streamer.session.state_files import Cursor, StateDamaged, read_state
from streamer.session.storage import save_state

FRAMES = 12
SIDE = (320, 240)
CAMERA = {
    "model": "PINHOLE",
    "width": SIDE[0],
    "height": SIDE[1],
    "params": [250.0, 250.0, 160.0, 120.0],
}
SEGMENT_MB = 1
"""Four frames of this size and a file of the journal is closed."""
STATES = 4


def dies(work: Callable[[Callable[[int], None]], None], folder: Path, at: int, seed: int | None
) -> tuple[bool, list[int]]:  # fmt: skip
    """Run `work` in a child that is killed at this step; whether it was, and the numbers that it
    said before (through a pipe: what is said was said before the kill)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        say = os.write
        try:
            PowerCut(folder, at, seed).install()
            work(lambda number: say(writing, struct.pack("<q", number)) and None)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(3)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = [number for (number,) in struct.iter_unpack("<q", pipe.read())]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -9), f"the writer failed with status {status}"
    return status == -9, said


def picture(seq: int) -> bytes:
    """(240, 320, 3) uint8 of its own for every seq."""
    return np.random.default_rng(seq).integers(0, 255, SIDE[0] * SIDE[1] * 3, np.uint8).tobytes()


def ingest_dies(folder: Path, at: int, seed: int | None, report: Report) -> bool:
    """One ingest that dies at this step, and its successor; False where it got through."""
    sessions = folder / "sessions"
    cut = [sys.executable, str(ROOT / "tests" / "power_cut.py"), str(sessions), str(at)]
    cut += ["-" if seed is None else str(seed), "streamer.ingest"]
    label = f"ingest, step {at}, {'SIGKILL' if seed is None else 'power cut'}"
    with running_ingest(folder, command=cut, segment_mb=SEGMENT_MB) as ingest:
        with ingest.client() as client:
            acked = send_until_dead(ingest, client)
        assert ingest.process is not None
        # Closing its files it may die as well.
        ingest.process.terminate()
        survived = ingest.process.wait(20.0) == 0
        if seed is not None:
            # The run folder does not outlive a power cut.
            shutil.rmtree(folder / "ingest", ignore_errors=True)
        recover(sessions / "kitchen", seed)
        ingest.start()
        with ingest.client() as client:
            welcome = client.greet(resume=True, cameras={"front": CAMERA})
            promise = f"{label}: {acked + 1} acknowledged, {welcome['next_seq']} known"
            report.expect(welcome["next_seq"] >= acked + 1, promise)
            for seq in range(welcome["next_seq"], FRAMES):
                send(client, seq)
            session = take_over(ingest)
            if welcome["next_seq"] < FRAMES:
                client.acked(FRAMES - 1)
            session.close()
    found = [one for one in read_journal(sessions / "kitchen") if isinstance(one.entry, FrameEntry)]
    seqs = [one.entry.header.seq for one in found]
    report.expect(seqs == list(range(FRAMES)), f"{label}: the journal holds {seqs}")
    same = all(bytes(one.parts[0]) == picture(one.entry.header.seq) for one in found)
    report.expect(same, f"{label}: frames have their own bytes")
    return not survived


def take_over(ingest: IngestHarness) -> FakeSession:
    """The process of the session, whether it is asked for again or not."""
    try:
        return ingest.start_session(timeout_s=1.5)
    except TimeoutError:
        session = FakeSession(ingest.batches)
        session.want(0)
        return session


def send_until_dead(ingest: IngestHarness, client: RawClient) -> int:
    """The last seq that was acknowledged."""
    acked = -1
    client.send("HELLO", {"proto": [1, 0], "session": "kitchen", "client": "robot",
                          "cameras": {"front": CAMERA}, "convention": "opencv"})  # fmt: skip
    for seq in range(FRAMES):
        send(client, seq)
    session = None
    until = time.monotonic() + 20.0
    assert ingest.process is not None
    while acked < FRAMES - 1 and ingest.process.poll() is None and time.monotonic() < until:
        if session is None:
            with suppress(TimeoutError):
                session = ingest.start_session(timeout_s=0.02)
        with suppress(TimeoutError):
            header = client.receive("ACK", timeout_s=0.02)[1]
            acked = max(acked, header["seq"])
    # What was said before the death may still be on its way here.
    with suppress(TimeoutError):
        while True:
            acked = max(acked, client.receive("ACK", timeout_s=0.1)[1]["seq"])
    if session is not None:
        session.close()
    return acked


def send(client: RawClient, seq: int) -> None:
    """A frame as it is: nothing to decode."""
    client.send_frame(seq, picture(seq), encoding="rgb8", width=SIDE[0], height=SIDE[1])


def recover(folder: Path, seed: int | None) -> None:
    """Processes take the journal up and die at each of their steps; the last one gets through."""
    try:
        epoch = read_session_file(folder).epoch
    except ValueError:
        return
    if epoch == 0:
        return
    for at in range(100):
        again = None if seed is None else seed + 7 * at

        def work(say: Callable[[int], None]) -> None:
            Journal.open(folder, "kitchen", epoch).close()

        if not dies(work, folder, at, again)[0]:
            return


def state_writer_dies(folder: Path, at: int, seed: int | None, report: Report) -> bool:
    """Saving is cut off at this step; False where it got through."""
    label = f"state, step {at}, {'SIGKILL' if seed is None else 'power cut'}"
    killed, said = dies(lambda say: save_states(folder, say), folder, at, seed)
    readable = -1
    for path in states(folder):
        with suppress(StateDamaged):
            read_state(path, ENGINE.model)
            readable = int(path.name)
            break
    report.expect(readable >= max(said, default=-1), f"{label}: saved {said}, found {readable}")
    return killed


def save_states(folder: Path, say: Callable[[int], None]) -> None:
    """One after the other; the number of each is said when it is safe."""
    state = engine_state(ENGINE)
    for number in range(STATES):
        cursor = Cursor(epoch=1, next_seq=4 * (number + 1), settings={})
        say(int(save_state(state, folder, cursor).name))


def file_writer_dies(folder: Path, at: int, seed: int | None, report: Report) -> bool:
    """Lives and epochs are cut off at this step; False where they got through."""
    label = f"session.json, step {at}, {'SIGKILL' if seed is None else 'power cut'}"

    def work(say: Callable[[int], None]) -> None:
        for _ in range(3):
            file = begin_life(folder, anew=False)
            say((file.epoch << 32) + file.life)
            say(begin_epoch(folder) << 32)

    killed, said = dies(work, folder, at, seed)
    file = read_session_file(folder)
    known = (file.epoch << 32) + file.life
    report.expect(known >= max(said, default=0), f"{label}: began {said}, known {known}")
    return killed


WRITERS: dict[str, Callable[[Path, int, int | None, Report], bool]] = {
    "session.json": file_writer_dies,
    "state": state_writer_dies,
    "ingest": ingest_dies,
}


def steps(options: argparse.Namespace, writer: str) -> Iterator[int]:
    """The steps at which a writer is killed."""
    every = options.ingest_every if writer == "ingest" else options.every
    return iter(range(0, 10_000, every))


def measure(options: argparse.Namespace) -> Report:
    """All writers, by SIGKILL and by power cuts."""
    report = Report()
    for writer, run in WRITERS.items():
        for power in (False, True):
            killed = 0
            for at in steps(options, writer):
                with tempfile.TemporaryDirectory(prefix="splatstream-cut-") as name:
                    folder = Path(name) / "kitchen"
                    folder.mkdir(mode=0o700)
                    seed = options.seed + at if power else None
                    if not run(folder, at, seed, report):
                        break
                    killed += 1
            key = f"{writer}, {'power cut' if power else 'SIGKILL'}"
            report.figures[key] = {"killed_at_steps": killed}
            report.expect(killed > 1, f"{key}: only {killed} steps were met")
    return report


HOME = tempfile.TemporaryDirectory(prefix="splatstream-engine-")
ENGINE = full_engine(Path(HOME.name), splats=600, published=600, frames=40, views=4)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--every", type=int, default=1, help="n-th step alone")
    made.add_argument("--ingest-every", type=int, default=1, help="the same of the ingest")
    options = made.parse_args()
    command = f"durability.py --every {options.every} --ingest-every {options.ingest_every}"
    command += f" --seed {options.seed}"
    measure(options).finish(command, options.json)


if __name__ == "__main__":
    main()
