"""The command `splatstream`: one module a verb, imported only when its verb is used.

Such a module holds a dataclass `Options` (tyro makes the command line of it) and
`run(options) -> int`, whose result is the exit code: 0 done, 1 done but not all of it, 2 the user
has to change something.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from streamer.suggest import did_you_mean

VERBS = {
    "demo": "daemon, demo capture and live page on this machine",
    "serve": "the daemon: takes frames, publishes the growing map",
    "push": "send a recorded capture to a daemon, as a camera would",
    "run": "a recorded capture to a map, in one process without a daemon",
    "watch": "live status of a daemon's sessions; mirrors the map to a file",
    "status": "one look at a daemon; the exit code is for health checks",
    "view": "the live page for a daemon on another machine",
    "sessions": "what a session folder holds: list, show, export, delete, close",
    "replay": "a recorded session to a map once more, without a daemon",
    "export": "a session's map as a file",
    "render": "a video of a flight through a map",
    "mesh": "a map's surfaces as a mesh, PLY or glTF",
    "keygen": "keys for a daemon and for who may connect to it",
    "eval": "judge maps by held-out views, beside baselines",
    "bench-load": "synthetic clients against a daemon: what this machine carries",
    "train": "train the network, on procedural scenes or on captures",
    "scenes": "a contact sheet of the procedural scenes that training draws from",
    "doctor": "what works on this machine, and why the rest does not",
}

_OURS = ("streamer", "gs_decoder", "ttt_core", "viewer")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: runs the verb and exits with its code."""
    sys.exit(dispatch(list(sys.argv[1:] if arguments is None else arguments)))


def dispatch(arguments: list[str]) -> int:
    """Runs `VERB ARGS…`; returns the exit code.

    Errors that are the user's to mend (ours that derive from ValueError or ConnectionError, and
    files that cannot be read or written) become one line on stderr and exit code 2. Everything
    else is a defect of the program and keeps its traceback.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"splatstream {version('splatstream')}")
        return 0
    verb = arguments[0]
    if verb not in VERBS:
        print(f"splatstream: no command {verb!r}: {did_you_mean(verb, VERBS)}", file=sys.stderr)
        return 2
    try:
        return _run(verb, arguments[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`… | head`); Python must not flush into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        if not _is_the_users(error):
            raise
        print(f"splatstream {verb}: {error}", file=sys.stderr)
        return 2


def usage() -> str:
    """What there is, by verb."""
    lines = ["usage: splatstream COMMAND [OPTIONS]", ""]
    lines += [f"  {verb:<12}{summary}" for verb, summary in VERBS.items()]
    return "\n".join([*lines, "", "splatstream COMMAND --help says what a command takes."])


def _run(verb: str, arguments: list[str]) -> int:
    import tyro

    module = importlib.import_module(f"streamer.cli.{verb.replace('-', '_')}")
    options = tyro.cli(
        module.Options,
        prog=f"splatstream {verb}",
        description=module.__doc__,
        args=arguments,
    )
    return int(module.run(options) or 0)


def _is_the_users(error: ValueError | OSError) -> bool:
    ours = type(error).__module__.split(".")[0] in _OURS
    return ours or (isinstance(error, OSError) and error.filename is not None)
