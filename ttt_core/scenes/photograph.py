"""What a camera makes of radiance: motion blur, exposure, white balance, noise, JPEG."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ttt_core.scenes.config import SceneConfig
from ttt_core.scenes.types import Array


def photograph(
    rng: np.random.Generator,
    radiance: Array,  # (V, H, W, 3) linear
    depth: Array,  # (V, H, W)
    c2w: Array,  # (V, 4, 4)
    fxfycxcy: Array,  # (V, 4)
    config: SceneConfig,
) -> npt.NDArray[np.uint8]:
    """Pictures (V, H, W, 3) uint8 sRGB as one camera takes them one after another."""
    count, height, width = radiance.shape[:3]
    gains = _gains(rng, radiance, config)
    shutter = rng.uniform(0.02, 0.3) if rng.random() < 0.6 else 0.0
    motion = _motion(depth, c2w, fxfycxcy) * shutter
    y, x = np.mgrid[:height, :width]
    reach = ((x - width / 2) ** 2 + (y - height / 2) ** 2) / (width**2 + height**2) * 4
    vignette = 1.0 - (rng.uniform(0.0, 0.35) if config.exposure else 0.0) * reach[..., None]
    read, shot = np.exp(rng.uniform(-7.5, -4.7)), np.exp(rng.uniform(-6.5, -4.2))
    quality = int(rng.integers(55, 97)) if rng.random() < 0.75 else 0
    contrast = rng.uniform(1.1, 1.7)
    sharpen = rng.uniform(0.0, 0.5) if rng.random() < 0.4 else 0.0
    out = np.empty((count, height, width, 3), np.uint8)
    for index in range(count):
        light = radiance[index]
        if config.blur:
            light = _smear(light, motion[index])
        light = np.maximum(light * (gains[index] * vignette), 0.0).astype(np.float32)
        if config.noise:
            grain = rng.standard_normal(light.shape, dtype=np.float32)
            light = light + grain * np.sqrt(read**2 + shot**2 * light)
        shown = 1.0 - np.exp(-contrast * np.maximum(light, 0.0))
        shown = shown ** np.float32(1 / 2.2)
        if sharpen:
            shown = shown + sharpen * (shown - cv2.blur(shown, (3, 3)))
        picture = np.clip(255.0 * shown + 0.5, 0, 255).astype(np.uint8)
        if config.jpeg and quality:
            _, code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
            picture = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), np.uint8)
        out[index] = picture
    return out


def _gains(rng: np.random.Generator, radiance: Array, config: SceneConfig) -> Array:
    """(V, 1, 1, 3): exposure that follows the pictures with a lag and wanders, white balance."""
    luminance = radiance @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    # Metered like a camera: the lower two thirds count more than a sky above them.
    lower = luminance.shape[1] // 3
    logarithm = np.log(luminance + 0.02)
    meter = np.exp(0.3 * logarithm.mean((1, 2)) + 0.7 * logarithm[:, lower:].mean((1, 2)))
    count = len(meter)
    key = 0.24 * np.exp(rng.normal(0, 0.25))
    if not config.exposure:
        return np.full((count, 1, 1, 3), key / meter.mean())
    lag, follow = rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9)
    wander = np.cumsum(rng.normal(0, 0.025, count))
    gain, state = np.empty(count), np.log(meter[0])
    for index in range(count):
        state += lag * (np.log(meter[index]) - state)
        gain[index] = follow * state + (1 - follow) * np.log(meter).mean()
    warm = rng.normal(0, 0.06) + np.cumsum(rng.normal(0, 0.004, count))
    balance = np.stack([1 + warm, np.ones(count), 1 - warm], -1)
    return (key * np.exp(wander - gain))[:, None, None, None] * balance[:, None, None]


def _motion(depth: Array, c2w: Array, fxfycxcy: Array) -> Array:
    """(V, 2) pixels that the middle of each picture moves by until the next view."""
    count = len(depth)
    known = np.where(depth > 0, depth, 50.0).reshape(count, -1)
    middle = np.median(known, axis=1)
    point = c2w[:, :3, 3] + middle[:, None] * c2w[:, :3, 2]
    after = np.minimum(np.arange(count) + 1, count - 1)
    before = after - (count > 1)
    ahead = np.einsum("vij,vi->vj", c2w[after, :3, :3], point[before] - c2w[after, :3, 3])
    z = np.maximum(ahead[:, 2:], 0.1)
    return np.asarray(fxfycxcy[:, :2] * ahead[:, :2] / z)


def _smear(light: Array, motion: Array) -> Array:
    """Blurs along `motion` (2,) pixels, at most 8."""
    length = float(np.hypot(*motion))
    if length < 0.4:
        return light
    motion = motion * min(1.0, 8.0 / length)
    half = int(np.ceil(np.abs(motion).max() / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 17):
        x, y = half + share * motion[0], half + share * motion[1]
        x0, y0 = int(x), int(y)
        fx, fy = x - x0, y - y0
        kernel[y0 : y0 + 2, x0 : x0 + 2] += np.outer([1 - fy, fy], [1 - fx, fx])
    return np.asarray(
        cv2.filter2D(light, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)
    )
