"""The matching prior: geometry of key frames from multi-view stereo, with a confidence.

Nothing here is learned: a plane sweep over views with known poses, aggregated and checked across
views. A network starts from this depth and adds to it.
"""

from ttt_core.matching.cells import CELL, CELL_CHANNELS
from ttt_core.matching.config import PriorConfig
from ttt_core.matching.prior import MatchingPrior
from ttt_core.matching.views import PosedImage, PriorDepth

__all__ = ["CELL", "CELL_CHANNELS", "MatchingPrior", "PosedImage", "PriorConfig", "PriorDepth"]
