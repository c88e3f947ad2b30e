"""Runs in processes of their own: no run's memory, caches or threads meet another's clock."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from streamer.child_process import child_environment
from streamer.evaluation.errors import RunFailed
from streamer.evaluation.job import JOB, LOG, OUTCOME, Job, Outcome, read_outcome, write

_ENDING_S = 5.0


def launch(job: Job) -> Outcome:
    """Does a run and waits for it. From the main thread: the process ends with the thread.

    Raises:
        RunFailed: it ended without a result; its log is in the run's folder.
    """
    folder = Path(job.out)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (*folder.glob("*.ply"), *folder.glob("*.ply.offset.json"), folder / OUTCOME):
        stale.unlink(missing_ok=True)
    write(folder / JOB, job)
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamer.child", "streamer.evaluation.worker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child_environment(),
            # Ctrl-C is for this process, which ends the other one.
            start_new_session=True,
        )
        try:
            status = process.wait()
        finally:
            _end(process)
    if status != 0 or not (folder / OUTCOME).is_file():
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        if status == 2 and last:
            raise RunFailed(last)
        raise RunFailed(
            f"{_ended(status)}{f': {last}' if last else ''} (all of it: {folder / LOG})"
        )
    return read_outcome(folder / OUTCOME)


def _ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return "its process was killed; where nobody did, memory ran out: try a smaller --long-side"
    return f"its process ended with {f'signal {-status}' if status < 0 else f'status {status}'}"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
