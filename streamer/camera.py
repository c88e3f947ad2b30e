"""Camera models: COLMAP's names and parameter orders, and how they project.

Image coordinates have their origin in the image's top-left *corner*: the first pixel's centre is
(0.5, 0.5), as in COLMAP, nerfstudio and gsplat. So an image scaled by s has fx·s, fy·s, cx·s, cy·s
exactly. OpenCV counts from the first pixel's centre: its cx and cy are half a pixel smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from streamer.conventions import check_pose
from streamer.suggest import did_you_mean

PARAMETERS: dict[str, tuple[str, ...]] = {
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
"""Parameter names of each camera model, in COLMAP's order."""

MAX_SIDE = 16384


class CameraError(ValueError):
    """A camera description that cannot be used; the message names field, value and remedy."""


@dataclass(frozen=True, slots=True)
class CameraModel:
    """One calibrated camera.

    Attributes:
        model: a key of `PARAMETERS`.
        width, height: pixels of the images the parameters hold for.
        params: in the order of `PARAMETERS[model]`; focal lengths and centre in pixels.
        T_body_camera: 16 floats, row-major: the camera's optical frame in the frame of the body
            whose pose the sender gives (convention ``ros_body`` only).
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]
    T_body_camera: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.model not in PARAMETERS:
            raise CameraError(
                f"camera model {self.model!r} is unknown: {did_you_mean(self.model, PARAMETERS)}"
            )
        for field in ("width", "height"):
            side = getattr(self, field)
            if not isinstance(side, int) or not 1 <= side <= MAX_SIDE:
                raise CameraError(f"camera {field} is {side!r}; 1 to {MAX_SIDE} pixels are allowed")
        names = PARAMETERS[self.model]
        try:
            params = tuple(float(value) for value in self.params)
        except (TypeError, ValueError):
            raise CameraError(f"camera params are {self.params!r:.80}, not numbers") from None
        if len(params) != len(names):
            fitting = [model for model, fields in PARAMETERS.items() if len(fields) == len(params)]
            hint = f"; {len(params)} are those of {' or '.join(fitting)}" if fitting else ""
            raise CameraError(
                f"camera model {self.model} takes {len(names)} params ({' '.join(names)}), "
                f"got {len(params)}{hint}"
            )
        for name, value in zip(names, params):
            if not math.isfinite(value):
                raise CameraError(f"camera param {name} is {value}")
            if name.startswith("f") and value <= 0.0:
                raise CameraError(f"camera param {name} is {value:g}; focal lengths are positive")
        object.__setattr__(self, "params", params)
        if self.T_body_camera is not None:
            matrix = check_pose(self.T_body_camera, "T_body_camera")
            object.__setattr__(self, "T_body_camera", tuple(matrix.reshape(-1).tolist()))

    @classmethod
    def pinhole(
        cls, width: int, height: int, fx: float, fy: float, cx: float, cy: float
    ) -> CameraModel:
        """A camera without distortion."""
        return cls("PINHOLE", width, height, (fx, fy, cx, cy))

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> CameraModel:
        """The camera of a wire header: `model`, `width`, `height`, `params`, `T_body_camera`."""
        try:
            model, width, height, params = (
                header[field] for field in ("model", "width", "height", "params")
            )
        except KeyError as missing:
            raise CameraError(
                f"camera has no {missing}; model, width, height and params are needed"
            ) from None
        return cls(model, width, height, tuple(params), header.get("T_body_camera"))

    def to_header(self) -> dict[str, Any]:
        """The camera as the wire protocol writes it."""
        header: dict[str, Any] = {
            "model": self.model,
            "width": self.width,
            "height": self.height,
            "params": list(self.params),
        }
        if self.T_body_camera is not None:
            header["T_body_camera"] = list(self.T_body_camera)
        return header

    def with_params(self, params: Sequence[float]) -> CameraModel:
        """The same camera with other intrinsics, those of a single frame."""
        return replace(self, params=tuple(params))

    @property
    def fxfycxcy(self) -> tuple[float, float, float, float]:
        """Focal lengths and centre in pixels, for every model."""
        if self.model == "SIMPLE_RADIAL":
            f, cx, cy, _ = self.params
            return f, f, cx, cy
        fx, fy, cx, cy = self.params[:4]
        return fx, fy, cx, cy

    @property
    def K(self) -> np.ndarray:
        """[3, 3] float64 pinhole part of the model."""
        fx, fy, cx, cy = self.fxfycxcy
        return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])

    @property
    def distortion(self) -> tuple[float, ...]:
        """The parameters after focal lengths and centre."""
        return self.params[3:] if self.model == "SIMPLE_RADIAL" else self.params[4:]

    @property
    def is_pinhole(self) -> bool:
        """Whether an image of this camera needs no undistortion."""
        # An equidistant lens with all k = 0 is still no pinhole.
        return self.model != "OPENCV_FISHEYE" and not any(self.distortion)

    def at_size(self, width: int, height: int) -> CameraModel:
        """The camera of frames that are smaller by a whole factor.

        Raises:
            CameraError: the size is not the camera's divided by a whole number.
        """
        if (width, height) == (self.width, self.height):
            return self
        factor = self.width // width if width > 0 else 0
        if factor < 1 or (width * factor, height * factor) != (self.width, self.height):
            raise CameraError(
                f"a frame of {width}x{height} does not fit the camera's {self.width}x{self.height}"
                " pixels: the same size or smaller by a whole factor is needed"
            )
        return self.scaled(width, height)

    def scaled(self, width: int, height: int) -> CameraModel:
        """The camera of the same picture resampled to ``width`` x ``height`` pixels."""
        x, y = width / self.width, height / self.height
        fx, fy, cx, cy = self.fxfycxcy
        if self.model == "SIMPLE_RADIAL":
            if abs(x - y) > 1e-9:
                # One focal length cannot hold a picture squeezed by rounding its sides.
                squeezed = (fx * x, fy * y, cx * x, cy * y, self.params[3], 0.0, 0.0, 0.0)
                return replace(self, model="OPENCV", width=width, height=height, params=squeezed)
            return replace(
                self, width=width, height=height, params=(fx * x, cx * x, cy * y, self.params[3])
            )
        params = (fx * x, fy * y, cx * x, cy * y, *self.distortion)
        return replace(self, width=width, height=height, params=params)

    def distort(self, rays: npt.ArrayLike) -> np.ndarray:
        """Where the lens puts rays: [..., 2] x/z, y/z of a pinhole → [..., 2] normalised, bent.

        NaN outside the radius up to which the model is one-to-one: beyond it a polynomial folds
        back and shows the same pixels again.
        """
        x, y = np.moveaxis(np.asarray(rays, dtype=np.float64), -1, 0)
        r2 = x * x + y * y
        if self.model == "OPENCV_FISHEYE":
            radius = np.sqrt(r2)
            theta = np.arctan(radius)
            bent = theta * (1.0 + _even_polynomial(theta * theta, self.distortion))
            factor = np.divide(bent, radius, out=np.ones_like(bent), where=radius > 1e-12)
            factor = np.where(theta <= self._largest_angle(), factor, np.nan)
            return np.stack([x * factor, y * factor], axis=-1)
        k1, k2, p1, p2, k3, k4, k5, k6 = self._brown()
        factor = (1.0 + _even_polynomial(r2, (k1, k2, k3))) / (
            1.0 + _even_polynomial(r2, (k4, k5, k6))
        )
        factor = np.where(r2 <= self._largest_radius() ** 2, factor, np.nan)
        return np.stack(
            [
                x * factor + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x),
                y * factor + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y,
            ],
            axis=-1,
        )

    def project(self, points: npt.ArrayLike) -> np.ndarray:
        """[..., 3] points in the camera's frame with z > 0 → [..., 2] image coordinates."""
        xyz = np.asarray(points, dtype=np.float64)
        fx, fy, cx, cy = self.fxfycxcy
        return self.distort(xyz[..., :2] / xyz[..., 2:]) * (fx, fy) + (cx, cy)

    def _brown(self) -> tuple[float, ...]:
        """k1 k2 p1 p2 k3 k4 k5 k6 of the polynomial models."""
        coefficients = self.distortion
        if self.model == "SIMPLE_RADIAL":
            coefficients = (self.params[3],)
        return (*coefficients, *([0.0] * (8 - len(coefficients))))

    def _largest_angle(self) -> float:
        """Angle from the axis (radians, < π/2) up to which the fisheye polynomial still grows."""
        theta = np.linspace(0.0, np.pi / 2.0, 2001)
        bent = theta * (1.0 + _even_polynomial(theta * theta, self.distortion))
        return _where_growth_ends(theta, bent)

    def _largest_radius(self) -> float:
        """Undistorted radius (tangent of the angle) up to which the radial factor still grows."""
        k1, k2, _, _, k3, k4, k5, k6 = self._brown()
        radius = np.linspace(0.0, 10.0, 20001)
        r2 = radius * radius
        bent = radius * (
            (1.0 + _even_polynomial(r2, (k1, k2, k3))) / (1.0 + _even_polynomial(r2, (k4, k5, k6)))
        )
        return _where_growth_ends(radius, bent)


def _even_polynomial(square: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    """c0·s + c1·s² + c2·s³ + …"""
    total = np.zeros_like(square)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * square
    return total


def _where_growth_ends(position: np.ndarray, bent: np.ndarray) -> float:
    """First position after which ``bent`` no longer grows; infinity where it always does."""
    falls = np.flatnonzero(np.diff(bent) <= 0.0)
    return float(position[falls[0]]) if len(falls) else math.inf
