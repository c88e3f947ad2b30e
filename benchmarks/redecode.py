"""Are old key frames worth decoding again with the memory of later ones?

    python benchmarks/redecode.py ../shared/captures [--only NAME...] [--after 8] [--seeds 0 1]
                                  [--steps 0 300] [--long-side 160] [--json FILE]

When so many key frames came after a key frame, its splats are taken out of the map, its view is
predicted anew with the fast weights and the kept views as they are by then (`StreamModel.query`:
views from after it are matched too), and what the rest of the map does not explain becomes its new
chunk, by the same rules of fusion. Every key frame once, which is the most that this can bring: a
daemon has time for some. All frames come before refinement, so that no refined splat is lost to it.
Beside it the same runs without; held out is what benchmarks/fusion.py holds out.
`changed` is the median over re-decoded views of the median |log depth ratio| against the prediction
that is replaced, over pixels that both are sure of, where the state still keeps it; `cpu_seconds`
what decoding again took.
"""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import dataclass, field
from typing import Any

import fusion
import numpy as np
import tyro

from streamer.frames import Frame
from streamer.hardware import hardware
from streamer.session.batching import filled_depth, on_cpu, view_batch
from streamer.session.engine import Engine
from streamer.session.fusing import fuse_keyframe
from streamer.session.settings import EngineConfig
from streamer.session.threads import use_all_cores
from streamer.sources import load_frame, open_capture
from ttt_core import Prediction
from ttt_core.matching import PosedImage


@dataclass(kw_only=True)
class Options(fusion.Options):
    """As of benchmarks/fusion.py, whose variants are not tried."""

    only: tuple[str, ...] = ("skull", "hololens_office")
    steps: tuple[int, ...] = (0, 300)
    after: int = 8
    """Key frames that come between a key frame and its being decoded again."""


@dataclass(kw_only=True)
class Redecoder:
    """Decodes every key frame again when `after` later ones have come."""

    frames: list[Frame]
    """By seq."""
    after: int
    done: set[int] = field(default_factory=set)
    changes: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def __call__(self, engine: Engine) -> None:
        started = time.process_time()
        old = sorted(engine.keyframes.keys())[: -self.after]
        for seq in old:
            if seq not in self.done:
                self.done.add(seq)
                self._decode(engine, seq)
        self.cpu_seconds += time.process_time() - started

    def _decode(self, engine: Engine, seq: int) -> None:
        frame, pose = self.frames[seq], engine.keyframes[seq].c2w
        chunk = engine.chunk_of_seq.pop(seq, None)
        if chunk is not None:
            parameters = engine.refiner.parameters
            of_it = parameters.chunk[: parameters.count] == chunk
            engine.refiner.remove(np.flatnonzero(of_it))
            engine.publish()
        height, width = frame.image.shape[:2]
        rendered = engine.refiner.render(pose, frame.K, width, height)
        batch = view_batch([frame], {seq: pose}, [filled_depth(frame, rendered)])
        prediction = on_cpu(engine.model.query(engine.model_state, batch))
        kept = {view.key: view for view in engine.model_state.views}
        if seq in kept:
            self.changes.append(_change(kept[seq], prediction, engine.config.fusion.confidence))
        again = fuse_keyframe(engine, frame, pose, prediction, 0, trained=engine.model.trained)
        if again is not None:
            engine.keyframes.tie(seq, again)


def _change(before: PosedImage, after: Prediction, sure: float) -> float:
    """Median |log depth ratio| over the pixels that both are sure of; NaN where there is none."""
    assert before.depth is not None and before.confidence is not None
    both = (before.confidence >= sure) & (after.confidence[0].numpy() >= sure)
    ratio = np.log(after.depth[0].numpy()[both] / before.depth[both])
    return float(np.median(np.abs(ratio))) if both.any() else float("nan")


def main(options: Options) -> None:
    use_all_cores()
    rows: list[dict[str, Any]] = []
    for name in options.only:
        capture = open_capture(options.captures / name).select(0, fusion.CAPTURES[name])
        given, _ = capture.hold_out(fusion.HOLD_OUT)
        frames = [
            load_frame(capture, entry, seq=seq, long_side=options.long_side)
            for seq, entry in enumerate(given)
        ]
        for seed in options.seeds:
            for again in (False, True):
                redecoder = Redecoder(frames=frames, after=options.after)
                lines = fusion.measure(
                    options, name, EngineConfig(), seed, redecoder if again else None
                )
                for line in lines:
                    row = {"capture": name, "seed": seed, "decoded_again": again, **line}
                    if again:
                        row["views"] = len(redecoder.done)
                        row["changed"] = round(float(np.nanmedian(redecoder.changes)), 4)
                        row["cpu_seconds"] = round(redecoder.cpu_seconds, 1)
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    if options.json is not None:
        content = {
            "hardware": hardware(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "after": options.after,
            "long_side": options.long_side,
            "rows": rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
