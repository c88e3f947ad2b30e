"""Says what works on this machine, and why the rest does not.

Ends with exit code 1 where something that is needed does not work.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.markup import escape

from streamer.cli.console import console

_COLOURS = {"ok": "green", "off": "yellow", "broken": "red"}


@dataclass(kw_only=True, slots=True)
class Options:
    """Nothing to set."""


def run(options: Options) -> int:
    """Prints the diagnosis."""
    from streamer.diagnosis import diagnose

    findings = diagnose()
    out = console()
    for finding in findings:
        state = f"[{_COLOURS[finding.state]}]{finding.state:<8}[/]"
        out.print(f"{state}{finding.subject:<14}{escape(finding.detail)}")
    broken = [finding.subject for finding in findings if finding.state == "broken"]
    if broken:
        out.print(f"needed but not working: {', '.join(broken)}")
        return 1
    out.print("everything that is needed works")
    return 0
