"""What each part of fusion is worth: held-out views after so many refinement steps, part by part.

    python benchmarks/fusion.py ../shared/captures [--only NAME...] [--variants NAME...]
                                [--seeds 0 1] [--steps 0 300 1500] [--long-side 160] [--json FILE]

Every eighth frame is held out; the first 150 frames of hololens_office, all of the others. All
frames come first, without refinement between them, then exactly so many steps: how loaded the
machine is makes no difference. A run takes half a minute to a minute of one quiet core.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from gs_decoder import world_origin
from streamer.hardware import hardware
from streamer.held_out import HeldOut
from streamer.run import RunPlan, run_capture
from streamer.scoring import WorldSplats, score
from streamer.session.engine import Engine
from streamer.session.settings import EngineConfig
from streamer.session.threads import use_all_cores
from streamer.sources import open_capture
from ttt_core import default_model

CAPTURES = {"skull": None, "brighton_drone": None, "hololens_office": 150}
HOLD_OUT = 8


def variants() -> dict[str, EngineConfig]:
    """What is compared, each with one part taken out."""
    whole = EngineConfig()
    blind, fusion = replace(whole.evidence, log_odds=0.0, cull=0.0), whole.fusion
    return {
        "as it is": whole,
        "splats in free space stay": replace(whole, evidence=blind),
        "fine fillers": replace(whole, fusion=replace(fusion, hole_cell=0.0)),
        "fillers half as far": replace(whole, fusion=replace(fusion, far=1.0)),
    }


@dataclass(kw_only=True)
class Options:
    captures: tyro.conf.Positional[Path]
    """Folder that holds the captures."""
    only: tuple[str, ...] = tuple(CAPTURES)
    variants: tuple[str, ...] = tuple(variants())
    seeds: tuple[int, ...] = (0,)
    steps: tuple[int, ...] = (0, 300, 1500)
    long_side: int = 160
    json: Path | None = None


def measure(
    options: Options,
    name: str,
    config: EngineConfig,
    seed: int,
    between: Callable[[Engine], None] | None = None,
) -> list[dict[str, Any]]:
    """One run: a line for every number of steps.

    Args:
        between: called after every batch.
    """
    capture = open_capture(options.captures / name).select(0, CAPTURES[name])
    given, kept = capture.hold_out(HOLD_OUT)
    held = HeldOut.load(capture, given, kept, long_side=options.long_side, with_depth=True)
    config = replace(
        config, refine=replace(config.refine, seed=seed), idle_steps=max(options.steps)
    )
    plan = RunPlan(
        capture=capture,
        given=given,
        kept=(),
        long_side=options.long_side,
        with_depth=False,
        time_limit=math.inf,
    )
    engine = Engine(config, model=default_model("packaged", config.device))
    lines: dict[int, dict[str, Any]] = {}

    def look(engine: Engine, frames_in: int) -> None:
        steps = engine.refiner.steps
        if between is not None and steps == 0:
            between(engine)
        if frames_in < len(given) or steps not in options.steps or steps in lines:
            return
        origin = world_origin(engine.map.chunks.values())
        splats = engine.splats_world(origin)
        scores = score(
            WorldSplats(splats, origin), held.views, held.neighbours, engine.refiner.background
        )
        names = ("psnr_gain", "psnr", "ssim_gain", "depth_error")
        means = {name: scores.mean(name) for name in names}
        lines[steps] = {
            "steps": steps,
            **{key: None if mean is None else round(mean, 3) for key, mean in means.items()},
            "splats": splats.count,
            "key_frames": len(engine.keyframes),
        }

    run_capture(engine, plan, progress=look)
    return list(lines.values())


def main(options: Options) -> None:
    use_all_cores()
    rows = []
    for variant in options.variants:
        for name in options.only:
            for seed in options.seeds:
                for line in measure(options, name, variants()[variant], seed):
                    rows.append({"variant": variant, "capture": name, "seed": seed, **line})
                    print(json.dumps(rows[-1]), flush=True)
    if options.json is not None:
        asked = {key: value for key, value in dataclasses.asdict(options).items() if key != "json"}
        content = {
            "hardware": hardware(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "options": {key: value for key, value in asked.items() if key != "captures"},
            "rows": rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
