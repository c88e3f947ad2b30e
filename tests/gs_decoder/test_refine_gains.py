"""The kernel of the gain against the sums that it stands for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gs_decoder.refine.gains import gain_step


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20), st.floats(0.0, 1.0))
def test_a_step_is_the_weighted_share_of_what_is_missing(seed, height, width, share):
    random = np.random.default_rng(seed)
    exposed, target = random.uniform(0.0, 1.0, (2, height, width, 3)).astype(np.float32)
    told = random.random((height, width)) < share
    missing = target.astype(np.float64) - exposed
    weight = told[..., None] * exposed / (np.abs(missing) + 0.05)
    expected = (weight * missing).sum(axis=(0, 1)) / ((weight * exposed).sum(axis=(0, 1)) + 1e-6)
    step = gain_step(exposed, target, told)
    assert step.dtype == np.float32
    assert np.allclose(step, expected, rtol=1e-4, atol=1e-5)
    assert told.any() or not step.any()
