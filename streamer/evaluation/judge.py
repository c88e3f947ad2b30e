"""Maps as they lie on disk, against the views that were held out.

The splats are read back from the exported PLY and rendered by the rasteriser's contract
(`docs/evaluation.md`), so that what is scored is what a user gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gs_decoder import Splats, offset_path, read_ply
from streamer.evaluation.job import Outcome, poses_path, read_offsets
from streamer.evaluation.results import MapResult, RunResult
from streamer.frames import Frame
from streamer.held_out import HeldOut
from streamer.scoring import Scores, WorldSplats, score

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores maps of one capture.

    Attributes:
        held_out: the views, and the given frames that lend them their exposure.
        backend: of `rasterize`: auto, or reference (the contract in plain torch, seconds a view).
    """

    held_out: HeldOut
    backend: str = "auto"

    def score_file(
        self, path: Path, background: Float32, views: list[Frame] | None = None
    ) -> tuple[int, Scores]:
        """Number of splats and scores of a PLY, with the offsets of cameras beside it.

        Args:
            views: which of the held-out views; None: all.

        Raises:
            InvalidPly: it is none, or not one of splats.
        """
        content = read_ply(path)
        world = WorldSplats(content.splats, content.offset)
        scores = self._score(world, background, views, read_offsets(path))
        return content.splats.count, scores

    def _score(
        self,
        world: WorldSplats,
        background: Float32,
        views: list[Frame] | None,
        offsets: Mapping[int, NDArray[np.float64]] | None = None,
    ) -> Scores:
        return score(
            world,
            self.held_out.views if views is None else views,
            self.held_out.neighbours,
            background,
            offsets=offsets,
            backend=self.backend,
        )

    def score_run(self, result: RunResult, folder: Path, outcome: Outcome, stream: bool) -> Scores:
        """Score all maps of a run into `result`; the scores of the last of them.

        Maps of batches are deleted when they are scored. In a stream a map is asked only for the
        views that lie before its newest frame.
        """
        background = np.array(outcome.background, np.float32)
        last = Scores([], [], [])
        for record in sorted(outcome.maps, key=lambda record: record.written):
            # Once the last frame is in, every held-out view has been passed.
            all_in = not stream or record.frames_in == outcome.frames_in
            views = None if all_in else self.held_out.seen_before(record.newest)
            if record.splats:
                _, last = self.score_file(folder / record.file, background, views)
            else:
                # A mark before the first batch was done: what is seen is the background.
                last = self._score(WorldSplats(Splats.empty(), np.zeros(3)), background, views)
            scored = MapResult.of(record, last, len(self.held_out.views))
            if record.batch is None:
                result.maps.append(scored)
            else:
                result.batches.append(scored)
                (folder / record.file).unlink()
                for beside in (offset_path, poses_path):
                    beside(folder / record.file).unlink(missing_ok=True)
        return last
