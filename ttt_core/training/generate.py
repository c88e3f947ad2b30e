"""Fills a folder with training sequences: `python -m ttt_core.training.generate --cache DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ttt_core.errors import ConfigError, SequenceCacheError, SequenceWorkerError
from ttt_core.training.build import StreamSpec
from ttt_core.training.pool import SequencePool
from ttt_core.training.sources import SceneSource

_T = TypeVar("_T")
_REPORT_EVERY_S = 10.0


def read_spec(path: str | Path | None) -> tuple[StreamSpec, SceneSource]:
    """A YAML or JSON file with the sections `stream` (`StreamSpec`) and `scenes` (`SceneSource`).

    Whatever it does not name keeps its default; None: all of it does.

    Raises:
        ConfigError: not such a file, or an unknown field.
    """
    document: Any = {}
    if path is not None:
        try:
            document = yaml.safe_load(Path(path).read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or not document.keys() <= {"stream", "scenes"}:
        raise ConfigError(f"{path}: give sections named stream and scenes, with fields below them")
    stream = _filled(StreamSpec(), document.get("stream"), "stream")
    source = _filled(SceneSource(), document.get("scenes"), "scenes")
    if source.config.views < stream.views:
        raise ConfigError(
            f"scenes.config.views is {source.config.views}: the stream needs {stream.views}"
        )
    return stream, source


def _filled(default: _T, values: Any, name: str) -> _T:
    """`default` with the fields that `values` names, sections inside sections."""
    if values is None:
        return default
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is {values!r:.60}: give fields and values")
    known = {f.name for f in dataclasses.fields(typing.cast(Any, default))}
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise ConfigError(f"{name}.{unknown[0]} is unknown: {name} has {', '.join(sorted(known))}")
    changes = {}
    for key, value in values.items():
        before = getattr(default, key)
        nested = dataclasses.is_dataclass(before)
        changes[key] = _filled(before, value, f"{name}.{key}") if nested else value
    try:
        return typing.cast(_T, dataclasses.replace(typing.cast(Any, default), **changes))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0 when the folder is full, 2 when the user has to change something,
    1 when a worker failed."""
    parser = argparse.ArgumentParser(prog="python -m ttt_core.training.generate")
    parser.add_argument("--cache", required=True, help="folder of the sequences")
    parser.add_argument("--spec", help="YAML or JSON with sections stream and scenes")
    parser.add_argument("--count", type=int, default=1000, help="sequences in the folder")
    parser.add_argument("--max-gb", type=float, help="size of the folder, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--nice", type=int, default=10)
    options = parser.parse_args(arguments)
    try:
        stream, source = read_spec(options.spec)
        with SequencePool(
            options.cache,
            stream,
            options.workers,
            source=source,
            count=options.count,
            max_bytes=None if options.max_gb is None else int(options.max_gb * 1e9),
            niceness=options.nice,
        ) as pool:
            _watch(pool, options.count)
    except (ConfigError, SequenceCacheError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SequenceWorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _watch(pool: SequencePool, count: int) -> None:
    told = time.monotonic()
    while pool.working:
        time.sleep(0.2)
        pool.check()
        if time.monotonic() - told >= _REPORT_EVERY_S:
            told = time.monotonic()
            print(_progress(pool, count), flush=True)
    pool.check()
    print(_progress(pool, count), flush=True)


def _progress(pool: SequencePool, count: int) -> str:
    line = f"{len(pool)} of {count} sequences, {pool.cache.nbytes() / 1e9:.2f} GB"
    made = pool.reports
    if not made:
        return line
    scene = sum(report.scene_s for report in made) / len(made)
    build = sum(report.build_s for report in made) / len(made)
    return f"{line}; CPU seconds each: scene {scene:.2f}, prior and map {build:.2f}"


if __name__ == "__main__":
    main()
