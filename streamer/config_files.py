"""Settings from files into their dataclasses; what does not fit is named with its place.

A YAML file or a packaged preset fills them. A running daemon hands its settings to its processes
as ``config.json`` in its private run folder.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import yaml

from streamer.config import ConfigError, ServeConfig
from streamer.suggest import did_you_mean

RUN_CONFIG = "config.json"

Config = TypeVar("Config")


def preset_names() -> list[str]:
    """Names of the YAML files that come with the program."""
    folder = resources.files("configs")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_config(source: str | Path) -> ServeConfig:
    """Settings of a YAML file, or of a packaged preset by name (``laptop``).

    Raises ConfigError for a file that is not there, is not YAML, or holds a key or a value that
    the daemon does not know.
    """
    path = Path(source)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif str(source) in preset_names():
        text = (resources.files("configs") / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"config: there is no file {str(source)!r}, nor a preset of that name; "
            f"presets: {', '.join(preset_names())}"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {source} is not YAML: {error}") from None
    return config_from_mapping({} if values is None else values)


def config_from_mapping(values: object) -> ServeConfig:
    """Settings from nested mappings; keys that are absent keep their defaults."""
    return _fill(ServeConfig, values, "")


def config_to_mapping(config: ServeConfig) -> dict[str, Any]:
    """The opposite of :func:`config_from_mapping`, fit for JSON and YAML."""
    return msgspec.to_builtins(config, enc_hook=str)


def write_run_config(config: ServeConfig, run_dir: Path) -> None:
    """Hand the settings to the daemon's processes; a reader sees the old or the new file."""
    aside = run_dir / (RUN_CONFIG + ".new")
    aside.write_text(json.dumps(config_to_mapping(config)), encoding="utf-8")
    aside.replace(run_dir / RUN_CONFIG)


def read_run_config(run_dir: Path) -> ServeConfig:
    """The settings of the daemon that owns ``run_dir``."""
    return config_from_mapping(json.loads((run_dir / RUN_CONFIG).read_text(encoding="utf-8")))


def config_section(kind: type[Config], values: object, name: str) -> Config:
    """A dataclass of settings from a mapping, sections inside sections; None: all defaults.

    Raises ConfigError, which names the place after ``name``, for a key that there is not and for a
    value that the dataclass does not take.
    """
    try:
        return _fill(kind, {} if values is None else values, f"{name}.")
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from None


def _fill(kind: type[Config], values: object, prefix: str) -> Config:
    if not isinstance(values, Mapping):
        where = prefix.rstrip(".") or "config"
        raise ConfigError(f"{where}: {values!r} is not a mapping of settings to values")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"{prefix}{key}: there is no such setting; {did_you_mean(str(key), known)}"
            )
        if dataclasses.is_dataclass(hints[key]):
            arguments[key] = _fill(hints[key], value, f"{prefix}{key}.")
        else:
            arguments[key] = _convert(hints[key], value, f"{prefix}{key}")
    return kind(**arguments)


def _convert(hint: Any, value: object, key: str) -> Any:
    takes_path = hint is Path or Path in typing.get_args(hint)
    if takes_path and isinstance(value, str):
        return Path(value).expanduser()
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        raise ConfigError(f"{key}: {value!r} is not {_describe(hint)}") from None


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in typing.get_args(hint))
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        Path: "a path",
        type(None): "null",
    }
    return words.get(hint, str(hint))
