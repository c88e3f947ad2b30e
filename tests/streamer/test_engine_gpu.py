"""The engine on CUDA: the same calls, rendered by gsplat."""

from __future__ import annotations

import pytest
import torch

from streamer.session.engine import Engine
from streamer.session.settings import EngineConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no working CUDA device"),
]


def test_a_batch_goes_through_on_cuda():
    engine = Engine(EngineConfig(device="cuda"))
    engine.warm_up(64, 96)
    engine.close()
