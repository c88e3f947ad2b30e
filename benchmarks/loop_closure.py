"""What a loop closure costs: thousands of key frames corrected at once, while frames come in.

    python benchmarks/loop_closure.py stages [--keyframes 2000] [--repeats 7] [--json FILE]
    python benchmarks/loop_closure.py daemon [--keyframes 2000] [--repeats 7] [--json FILE]

Both walk through the demo's pictures, every round in a place of its own, until so many key frames
have a chunk, and then bend the whole walk again and again, each time a little further. `stages`
does it to one engine in this process and says what each of its steps takes. `daemon` does it to a
daemon, from a `poses` client, while a camera goes on sending --fps frames a second and refinement
takes the rest: from before the call of `send_poses` to the moment when the `move` has come to the
socket of a subscriber in another process (`to_published`), when one in this process has applied it
(`to_applied`), and to the call's answer; of this, `correction` is the session's own figure, from
the receipt at the ingest until readers are told, and `correct` the engine's part. Milliseconds of
wall time, and of CPU time for `stages`; the least of all repeats says what the program needs, the
median what the machine made of it. With --json the figures are put into a file, beside the other
command's.
"""

from __future__ import annotations

import json
import os

import tyro
from closure_daemon import Daemon, through_a_daemon
from closure_engine import Stages, stages

from streamer.hardware import hardware


def main() -> None:
    """One of the commands."""
    options = tyro.extras.subcommand_cli_from_dict({"stages": Stages, "daemon": Daemon})
    if isinstance(options, Stages):
        name, result = "stages", stages(options)
    else:
        name, result = "daemon", through_a_daemon(options)
    # Of the minute before: what else runs on the machine makes every figure larger.
    load = round(os.getloadavg()[0], 1)
    result = {"machine": hardware(), "load": load, **result}
    print(json.dumps(result, indent=1))
    if options.json is not None:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps({**known, name: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
