"""What is shipped for running the daemon is understood by what is to run it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "splatstream.service").read_text()
    # The program lies elsewhere here.
    unit, programs = re.subn(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.M)
    assert programs == 1
    for line in ("Type=notify", "WatchdogSec=60s"):
        assert f"\n{line}\n" in unit
    path = tmp_path / "splatstream.service"
    path.write_text(unit)
    said = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60
    )
    assert (said.returncode, said.stderr) == (0, "")
