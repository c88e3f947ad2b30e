"""Imports run one way: viewer → streamer → gs_decoder, ttt_core, and the last two never meet.

Every module is parsed, not imported: imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ALLOWED = {
    "gs_decoder": {"gs_decoder"},
    "ttt_core": {"ttt_core"},
    "streamer": {"streamer", "gs_decoder", "ttt_core", "configs"},
    "viewer": {"viewer", "streamer", "gs_decoder"},
    "configs": {"configs"},
}
OURS = set(ALLOWED) | {"tests", "benchmarks", "examples"}
FORBIDDEN = {
    "gs_decoder": {"zmq", "socket", "asyncio", "viser", "msgpack", "msgspec"},
    "ttt_core": {"zmq", "socket", "asyncio", "viser", "msgpack", "msgspec"},
    "streamer": {"viser", "pickle"},
    "viewer": {"pickle"},
    "configs": {"zmq", "viser", "torch"},
}


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of everything that `source` imports, wherever it stands."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, prefix
            for alias in node.names:
                yield node.lineno, f"{prefix}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            # importlib.import_module("x"), import_module("x"), __import__("x")
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            first = node.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield node.lineno, str(first.value)


def offences(source: str, module: str, is_package: bool = False) -> list[str]:
    """What `module` imports that its package must not."""
    package = module.split(".")[0]
    found = set()
    for line, name in imported(source, module, is_package):
        top = name.split(".")[0]
        ours = top in OURS and top not in ALLOWED[package]
        theirs = any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN[package])
        if ours or theirs:
            found.add(f"{module}, line {line}: {name}")
    return sorted(found)


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_no_module_imports_against_the_direction(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"the package {package} has no modules"
    found = []
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += offences(path.read_text(encoding="utf-8"), module, is_package)
    assert not found, "imports against the direction:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gs_decoder.map", "import ttt_core.streaming"),
        ("gs_decoder.map", "from ttt_core import Reconstructor"),
        ("gs_decoder.raster.cpu", "from ...streamer import frames"),
        ("ttt_core.model", "def f():\n    import gs_decoder"),
        ("ttt_core.model", "if TYPE_CHECKING:\n    from streamer.frames import Frame"),
        ("ttt_core.model", "import zmq.asyncio"),
        ("streamer.ingest", "import importlib\nimportlib.import_module('viewer')"),
        ("streamer.ingest", "from viser import ViserServer"),
        ("streamer.cli.view", "try:\n    import viewer.page\nexcept ImportError:\n    pass"),
        ("viewer.page", "from ttt_core import StreamingModel"),
        ("viewer.page", "import tests.conftest"),
    ],
)
def test_the_check_sees_every_way_to_import(module: str, source: str) -> None:
    assert offences(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gs_decoder.map", "from gs_decoder.chunk import Chunk\nimport torch, numba"),
        ("gs_decoder.raster.cpu.blend", "from . import simd\nfrom .. import contract"),
        ("streamer.session", "from gs_decoder import SplatMap\nimport ttt_core, zmq, msgspec"),
        ("viewer.page", "from streamer import Subscriber\nimport viser"),
        ("viewer.page", "import_module(name)"),
    ],
)
def test_the_check_leaves_good_imports_alone(module: str, source: str) -> None:
    assert offences(source, module) == []


def test_test_modules_have_names_of_their_own() -> None:
    """pytest imports them by base name: of two alike one would not run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
