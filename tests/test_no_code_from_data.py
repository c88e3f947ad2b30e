"""Nothing that is read becomes code: no pickle, no eval, no torch.load but of weights alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("streamer", "gs_decoder", "ttt_core", "viewer", "configs", "benchmarks", "examples")

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle"}
MODULES |= {"joblib", "msgpack_numpy", "code", "codeop"}
"""What runs what it reads."""
BUILTINS = {"eval", "exec", "compile", "execfile"}
PICKLING = {"recv_pyobj", "send_pyobj", "read_pickle", "to_pickle"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}


def offences(source: str) -> Iterator[str]:
    """Places in `source` where data could become code, as `line: what`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        for name in names:
            if name.split(".")[0] in MODULES:
                yield f"{node.lineno}: imports {name}"
        if isinstance(node, ast.Call):
            yield from (f"{node.lineno}: {what}" for what in _of_call(node))


def _of_call(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    owner, _, name = called.rpartition(".")
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    if called in BUILTINS or name in PICKLING:
        yield called
    if owner == "yaml" and name in UNSAFE_YAML:
        yield called
    if called == "torch.load":
        weights_only = options.get("weights_only")
        if not (isinstance(weights_only, ast.Constant) and weights_only.value is True):
            yield "torch.load without weights_only=True"
    allowed = options.get("allow_pickle")
    if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
        yield f"{called} with allow_pickle"
    shell = options.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        yield f"{called} with shell"


@pytest.mark.parametrize("place", PLACES)
def test_no_module_runs_what_it_reads(place: str) -> None:
    files = sorted((ROOT / place).rglob("*.py"))
    assert files, f"{place} has no modules"
    found = [
        f"{path.relative_to(ROOT)}:{offence}"
        for path in files
        for offence in offences(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill as d",
        "import msgpack_numpy",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "numpy.load(path, allow_pickle=True)",
        "socket.recv_pyobj()",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_check_sees_it(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "re.compile(text)",
        "torch.compile(model)",
        "torch.load(path, weights_only=True)",
        "numpy.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "msgpack.unpackb(data)",
    ],
)
def test_the_check_leaves_harmless_calls_alone(source: str) -> None:
    assert not list(offences(source))
