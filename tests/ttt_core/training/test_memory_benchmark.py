"""`benchmarks/memory.py` and the streams of `learned.py`, from caches to tables, as small as it
goes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sequence_cases import sequence

from ttt_core import StreamingModel, default_model
from ttt_core.training.evaluate import StreamErrors
from ttt_core.training.samples import save_sequence

_BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def _loaded(name: str) -> ModuleType:
    """A script as a module, beside which it finds its neighbours."""
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", _BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return _loaded("memory")


def test_forms_are_based_trained_measured_and_reported(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    for number in range(2):
        save_sequence(sequence(number, batches=8, alone=True), tmp_path / f"{number}.safetensors")
    runs = ("none:0", "ridge:0", "anchored:0")
    out = tmp_path / "out"
    options = benchmark.Train(
        train=tmp_path,
        validation=tmp_path,
        out=out,
        only=runs,
        base_steps=1,
        steps=1,
        streams=1,
        sequences=2,
        scenes=2,
        long_scenes=1,
    )
    benchmark.train(options)
    for memory in ("swiglu", "tokens"):
        benchmark._based(options, benchmark.Supply(tmp_path, 2), memory, 0)
    benchmark.report(benchmark.Report(out=out, json=tmp_path / "table.json"))
    table = json.loads((tmp_path / "table.json").read_text())
    assert set(table["runs"]) == set(runs)
    for run in table["runs"].values():
        assert set(benchmark.CONDITIONS) <= set(run["conditions"])
    assert table["runs"]["ridge:0"]["facts"]["cost"]["steps"] == 1
    pairs = {row["pair"] for row in table["paired"]}
    for form in ("ridge", "anchored"):
        assert {f"{form}:0 - none:0", f"{form}:0 carried - reset"} <= pairs
    # what was trained can be measured elsewhere
    for name in runs:
        model = default_model(out / f"{name}.safetensors")
        assert isinstance(model, StreamingModel) and model.network is not None
        assert model.network.config.memory == name.partition(":")[0]
    learned = _loaded("learned")
    weights = tuple(out / f"{name}.safetensors" for name in ("ridge:0", "none:0"))
    rows = learned.streams(learned.Streams(cache=tmp_path, count=2, weights=weights))["paired"]
    pairs = {row["pair"] for row in rows}
    assert {"ridge:0, carried - ridge:0, reset", "ridge:0, carried - none:0"} <= pairs


def test_harm_is_looked_for_where_no_earlier_batch_saw(benchmark: ModuleType) -> None:
    """Later batches of two streams, of which the second has seen everything."""
    shape = (2, 3, 4)
    seen = np.ones(shape, np.bool_)
    seen[:, 0] = seen[0, 1:, 0] = False
    one, other = np.full(shape, 0.1, np.float32), np.full(shape, 0.1, np.float32)
    one[0, 1:, 0], one[:, 0], one[1] = 0.4, 9.0, 9.0
    errors = (StreamErrors(e, e, e, e, seen) for e in (one, other))
    rows = benchmark.in_unseen_places("one - other", "alone", *errors)
    assert [row["statistic"] for row in rows] == ["median", "mean"]
    for row in rows:
        assert (row["pair"], row["batch"]) == ("one - other, never seen", "2-3")
        assert row["difference"] == pytest.approx(0.3)


def test_batches_that_only_long_streams_have_are_paired(
    benchmark: ModuleType,
) -> None:
    shape = (3, 16, 4)
    seen = np.ones(shape, np.bool_)

    def errors(late: float) -> StreamErrors:
        values = np.full(shape, 0.1, np.float32)
        values[:, 15] = late
        return StreamErrors(values, values, values, values, seen)

    conditions = (*benchmark.CONDITIONS, *benchmark.LONG)
    found = {
        name: dict.fromkeys(conditions, errors(late))
        for name, late in (("ridge:1", 0.2), ("none-longer:1", 0.5))
    }
    rows = benchmark._comparisons(found, np.array([False, True, True]))
    last = [r for r in rows if r["batch"] == 16]
    assert {row["condition"] for row in last} == set(benchmark.LONG)
    assert all(row["difference"] == pytest.approx(-0.3) for row in last)


def test_unseen_places_are_those_that_no_earlier_batch_saw(benchmark: ModuleType) -> None:
    shape = (2, 3, 4)
    error = np.full(shape, 0.1, np.float32)
    seen = np.ones(shape, np.bool_)
    error[:, 1:, 0], seen[:, 1:, 0] = 0.4, False
    error[:, 0], seen[:, 0] = 9.0, False  # the first batch has nothing before it
    error[0, 1, 0] = np.nan  # unknown truth counts for nothing
    row = benchmark.summed_up(StreamErrors(error, error, error, error, seen))
    assert row["unseen_mean"] == pytest.approx(0.4)


def test_the_packaged_memory_is_compared_batch_by_batch(tmp_path: Path) -> None:
    for number in range(2):
        save_sequence(sequence(number, batches=4, alone=True), tmp_path / f"{number}.safetensors")
    learned = _loaded("learned")
    found = learned.streams(learned.Streams(cache=tmp_path, count=2))
    assert (found["streams"], found["batches"]) == (2, 4)
    pairs = {row["pair"] for row in found["paired"]}
    assert "carried - prior, never seen" in pairs
    rows = [row for row in found["paired"] if row["pair"] == "carried - reset"]
    assert {row["condition"] for row in rows} == set(learned.CONDITIONS)
    # nothing is carried into the first batch
    assert all((row["difference"] == 0) == (row["batch"] == 1) for row in rows)


def test_sizes_are_trained_alike_timed_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        save_sequence(sequence(number, batches=2, alone=True), tmp_path / f"{number}.safetensors")
    sizes = _loaded("sizes")
    names = ("smallest", "default")
    options = sizes.Options(
        train=tmp_path,
        validation=tmp_path,
        out=tmp_path / "out",
        only=names,
        steps=1,
        streams=1,
        sequences=2,
        scenes=2,
        json=tmp_path / "table.json",
    )
    sizes.main(options)
    table = json.loads((tmp_path / "table.json").read_text())
    small, default = (table["sizes"][name] for name in names)
    assert small["parameters"] < default["parameters"]
    assert small["batch_cpu_ms"] > 0
    assert small["errors"]["both"]["prior"] == default["errors"]["both"]["prior"]
    assert set(table["less the default size"]) == {"smallest"}
    # what is done is not done again
    capsys.readouterr()
    sizes.main(options)
    assert "steps" not in capsys.readouterr().out
