"""Settings: files fill dataclasses, and what does not fit is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gs_decoder.refine import RefineConfig
from streamer.cli.serve import Options, serve_config
from streamer.config import ConfigError, PublisherConfig, ServeConfig
from streamer.config_files import (
    config_from_mapping,
    config_to_mapping,
    load_config,
    preset_names,
    read_run_config,
    write_run_config,
)
from streamer.session.settings import engine_config
from viewer.config import ViewerConfig as PageConfig


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ingst": 1}, ["ingst", "did you mean 'ingest'"]),
        ({"viewer": {"prot": 1}}, ["viewer.prot", "did you mean 'port'"]),
        ({"viewer": {"port": "high"}}, ["viewer.port", "'high'", "whole number"]),
        ({"viewer": {"port": 70000}}, ["viewer.port", "70000", "65535"]),
        ({"viewer": {"enabled": 3}}, ["viewer.enabled", "3", "true or false"]),
        ({"viewer": {"max_splats": 999}}, ["viewer.max_splats", "999", "1000..4000000"]),
        ({"viewer": {"max_splats": 4_000_001}}, ["viewer.max_splats", "1000..4000000"]),
        ({"viewer": 3}, ["viewer", "3", "mapping"]),
        ({"session": {"background": "red"}}, ["session.background", "'red'", "auto, black, white"]),
        ({"session": {"weights": 3}}, ["session.weights", "3", "a path"]),
        ({"session": {"sh_degree": 4}}, ["session.sh_degree", "4", "0..3"]),
        ({"session": {"map_budget": 1}}, ["session.map_budget", "1", "chunk_budget"]),
        ({"device": "gpu"}, ["device", "'gpu'", "cuda"]),
        ({"session": {"submaps": 0}}, ["session.submaps", "0", "positive"]),
        ({"max_sessions": 0}, ["max_sessions", "0", "positive"]),
        ({"ingest": None}, ["ingest", "None", "a text"]),
        ([1, 2], ["config", "mapping"]),
    ],
)
def test_what_does_not_fit_is_named(values: object, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        config_from_mapping(values)
    for word in words:
        assert word in str(error.value)


def test_a_file_fills_and_the_rest_keeps_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("viewer: {port: 9000}\nsession:\n  weights: ~/model.safetensors\n")
    config = load_config(file)
    assert config.viewer.port == 9000
    assert config.session.weights == Path("~/model.safetensors").expanduser()
    assert config.ingest == ServeConfig().ingest
    assert config.session.long_side == ServeConfig().session.long_side


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert load_config(file) == ServeConfig()


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t- x"])
def test_what_is_no_yaml_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml is not YAML"):
        load_config(file)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    assert load_config(name) != ServeConfig()


def test_there_are_presets_and_an_unknown_one_names_them() -> None:
    assert preset_names()
    with pytest.raises(ConfigError, match="laptop"):
        load_config("lapdog")


def test_settings_survive_the_way_to_another_process(tmp_path: Path) -> None:
    config = load_config("laptop")
    config.session.weights = tmp_path / "w.safetensors"
    config.log.file = tmp_path / "log"
    write_run_config(config, tmp_path)
    assert read_run_config(tmp_path) == config
    assert config_from_mapping(config_to_mapping(config)) == config


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("viewer: {port: 9000, host: localhost}\nmax_sessions: 2\ninsecure: true\n")
    config = serve_config(
        Options(config=str(file), viewer_port=0, ingest="ipc:///run/x", no_viewer=True)
    )
    assert (config.viewer.port, config.viewer.host) == (0, "localhost")
    assert (config.ingest, config.max_sessions) == ("ipc:///run/x", 2)
    assert config.insecure
    assert not config.viewer.enabled


@pytest.mark.parametrize("splats", [1_000, 4_000_000])
def test_the_page_takes_what_the_daemon_takes(splats: int) -> None:
    config = config_from_mapping({"viewer": {"max_splats": splats}})
    assert PageConfig(max_splats=config.viewer.max_splats).max_splats == splats
    for beyond in (999, 4_000_001):
        with pytest.raises(ValueError, match="1000 to 4000000"):
            PageConfig(max_splats=beyond)


def test_serve_refuses_what_its_page_could_not_show(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("viewer: {max_splats: 500}\n")
    command = [sys.executable, "-m", "streamer.cli", "serve", "--config", str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert answer.stderr == ("splatstream serve: viewer.max_splats: 500 is not in 1000..4000000\n")


def test_the_command_line_is_checked_like_the_file() -> None:
    with pytest.raises(ConfigError, match=r"viewer\.port: 70000"):
        serve_config(Options(viewer_port=70000))


def test_refinement_by_itself_has_the_daemons_defaults() -> None:
    """What `benchmarks/refinement.py` and tests measure is what a daemon does."""
    assert engine_config(ServeConfig()).refine == RefineConfig()


def test_what_refinement_publishes_at_once_fits_into_a_subscribers_queue() -> None:
    """A reader that keeps up would lose updates otherwise, and repair the map over and over."""
    assert PublisherConfig().updates_hwm > engine_config(ServeConfig()).chunks_at_once
