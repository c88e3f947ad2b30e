"""Errors of the kind that trackers make: a part that drifts slowly and a part that jitters."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ttt_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseNoise:
    """How wrong the poses are that the model is told.

    Raises:
        ConfigError: a value out of range.
    """

    rotation_deg: float = 0.25
    """Root mean square angle."""
    translation: float = 0.0035
    """Root mean square length, in units of the scene (its typical depth): 7 mm at 2 m."""
    drifting: float = 0.5
    """Share of the variance that drifts; the rest is new in every view."""
    drift_views: float = 8.0
    """Views after which the drifting part has lost all but 1/e of what it was."""
    share: float = 0.5
    """Share of the sequences that have noise at all."""

    def __post_init__(self) -> None:
        for name in ("rotation_deg", "translation"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise ConfigError(f"{name} is {value}: give a number >= 0")
        for name in ("drifting", "share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}: give a share, 0 to 1")
        if not self.drift_views > 0:
            raise ConfigError(f"drift_views is {self.drift_views}: give a number > 0")

    @property
    def any(self) -> bool:
        """Whether some sequence has noise."""
        return self.share > 0 and (self.rotation_deg > 0 or self.translation > 0)

    def disturb(
        self, c2w: NDArray[np.float64], unit: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """`c2w` (V,4,4) with noise, `unit` world units being the scene's; or as it is.

        The noise of a view depends on the views before it, not on those after.
        """
        noisy = rng.random() < self.share
        told = c2w.copy()
        if not noisy:
            return told
        # 6 numbers a view: 3 of rotation, 3 of translation, each of root mean square 1 in length
        fresh = rng.normal(size=(len(c2w), 2, 6)) / np.sqrt(3.0)
        memory = np.exp(-1.0 / self.drift_views)
        drift = fresh[0, 0]
        for k in range(len(c2w)):
            if k:
                drift = memory * drift + np.sqrt(1.0 - memory**2) * fresh[k, 0]
            error = np.sqrt(self.drifting) * drift + np.sqrt(1.0 - self.drifting) * fresh[k, 1]
            turn, _ = cv2.Rodrigues(np.radians(self.rotation_deg) * error[:3])
            told[k, :3, :3] = c2w[k, :3, :3] @ turn
            told[k, :3, 3] += self.translation * unit * error[3:]
        return told
