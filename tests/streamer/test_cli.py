"""The command line as a user meets it: what there is, errors as one line, exit codes."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamer import cli


def splatstream(*arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    command = [sys.executable, "-c", "from streamer.cli import main; main()", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def test_usage_names_every_verb() -> None:
    for arguments in ([], ["--help"], ["help"]):
        answer = splatstream(*arguments)
        assert answer.returncode == 0
        assert [line.split()[0] for line in answer.stdout.splitlines()[2 : 2 + len(cli.VERBS)]] == (
            list(cli.VERBS)
        )


def test_unknown_verb_suggests_the_nearest() -> None:
    answer = splatstream("psuh", "x")
    assert answer.returncode == 2
    assert answer.stderr == "splatstream: no command 'psuh': did you mean 'push'?\n"


def test_every_verb_explains_itself_without_loading_the_heavy_libraries() -> None:
    code = (
        "import sys\n"
        "from streamer.cli import VERBS, dispatch\n"
        "for verb in VERBS:\n"
        "    try: dispatch([verb, '--help'])\n"
        "    except SystemExit as end: assert not end.code, (verb, end.code)\n"
        "    heavy = {'torch', 'viser', 'numba', 'cv2'} & set(sys.modules)\n"
        "    assert not heavy, (verb, heavy)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 0, answer.stderr
    for verb in cli.VERBS:
        assert re.search(rf"^usage: splatstream {verb}\b", answer.stdout, re.MULTILINE), verb


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_keeps_to_the_form_of_a_verb(verb: str) -> None:
    module = importlib.import_module(f"streamer.cli.{verb.replace('-', '_')}")
    assert module.__doc__
    assert callable(module.run)
    assert module.Options.__dataclass_fields__ is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ("push", "/nowhere/at/all"),
        ("run", "/nowhere/at/all", "--out", "/nowhere/out"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(arguments: Sequence[str]) -> None:
    answer = splatstream(*arguments)
    assert answer.returncode == 2
    assert answer.stderr == (
        f"splatstream {arguments[0]}: /nowhere/at/all: there is no such file or folder\n"
    )


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamer.cli import doctor

    def fail(options: object) -> int:
        raise ValueError("not one of our named errors")

    monkeypatch.setattr(doctor, "run", fail)
    with pytest.raises(ValueError, match="not one of"):
        cli.dispatch(["doctor"])


def test_doctor_reports_this_machine() -> None:
    answer = splatstream("doctor")
    lines = {line[8:22].strip(): line for line in answer.stdout.splitlines()}
    assert answer.returncode == 0, answer.stdout
    for subject in ("torch", "numba", "opencv", "viser", "pyzmq", "kernel cache"):
        assert lines[subject].startswith("ok"), lines[subject]
    import torch

    works = torch.cuda.is_available()
    assert lines["cuda"].startswith("ok" if works else "off")
    assert lines["gsplat"].startswith("ok" if works else "off")
    from ttt_core.default_model import PACKAGED

    assert lines["weights"].startswith("ok" if PACKAGED.exists() else "off"), lines["weights"]
    assert f"{torch.__version__}" in lines["torch"]


def test_doctor_says_which_port_is_taken() -> None:
    import socket

    from streamer.diagnosis import port_is_free

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)


def test_a_broken_library_is_a_finding_not_a_crash() -> None:
    from streamer.diagnosis import _package

    finding = _package("streamer.no_such_module", "no-such-module", "nothing")
    assert finding.state == "broken"
    assert "ModuleNotFoundError" in finding.detail
    assert "pip install no-such-module" in finding.detail


def test_folder_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    from streamer.diagnosis import _folder

    assert _folder("sessions", tmp_path / "to/come", "x").state == "ok"
    (tmp_path / "file").touch()
    assert _folder("sessions", tmp_path / "file/below", "x").state == "broken"
