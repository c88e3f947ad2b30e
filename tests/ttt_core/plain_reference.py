"""The whole reconstructor once more in numpy: one loop for every axis, nothing batched or fused.

Slow and literal, so that an order of axes, heads or chunks got wrong in the fast model shows.
"""

from __future__ import annotations

from math import erf, log

import numpy as np
from numpy.typing import NDArray

from ttt_core import ReconstructorConfig

Array = NDArray[np.float64]
Parameters = dict[str, Array]


def _layer_norm(x: Array, gain: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain


def _rms_norm(x: Array, gain: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _unit(x: Array) -> Array:
    return x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-5)


def _newton_schulz(g: Array) -> Array:
    if g.shape[0] > g.shape[1]:
        return _newton_schulz(g.T).T
    x = g / (np.sqrt((g**2).sum()) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def tokens_of_view(image: Array, camera: Array, c2w: Array, patch: int) -> tuple[Array, Array]:
    """Token inputs (T, 12 P^2) and unit directions (H*W, 3) in splat order, pixel by pixel."""
    _, height, width = image.shape
    fx, fy, cx, cy = camera
    tokens, directions = [], []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            values: list[float] = []
            for row in range(top, top + patch):
                for column in range(left, left + patch):
                    ray = np.array([(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0])
                    ray = c2w[:3, :3] @ ray
                    ray = ray / np.sqrt((ray**2).sum())
                    origin = c2w[:3, 3]
                    values += [*origin, *ray, *np.cross(origin, ray)]
                    values += [2 * v - 1 for v in image[:, row, column]]
                    directions.append(ray)
            tokens.append(values)
    return np.array(tokens), np.array(directions)


def _attention(x: Array, p: Parameters, config: ReconstructorConfig) -> Array:
    """Tokens of ONE view (T, d)."""
    width, dim = config.width, config.attention_head_dim
    q, k, v = np.split(x @ p["to_qkv.weight"].T, 3, axis=1)
    out = np.zeros_like(x)
    for start in range(0, width, dim):
        head = slice(start, start + dim)
        qh = _rms_norm(q[:, head], p["q_norm.weight"], config.qk_norm_eps)
        kh = _rms_norm(k[:, head], p["k_norm.weight"], config.qk_norm_eps)
        score = qh @ kh.T / np.sqrt(dim)
        weight = np.exp(score - score.max(1, keepdims=True))
        out[:, head] = weight / weight.sum(1, keepdims=True) @ v[:, head]
    return out @ p["c_proj.weight"].T


def _fast_weights(
    items: list[Array], p: Parameters, config: ReconstructorConfig, chunk: int
) -> tuple[list[Array], list[list[Array]]]:
    """All batch items (each (N, d)) together: the elastic option couples them.

    Returns the layer's outputs and the final [w0, w1, w2] of every (item, head), item-major.
    """
    dim, heads = config.fast_weight_head_dim, config.fast_weight_heads
    slots = [(b, h) for b in range(len(items)) for h in range(heads)]
    weights = [[p["w0"][h].copy(), p["w1"][h].copy(), p["w2"][h].copy()] for _, h in slots]
    norms = [[np.sqrt((w**2).sum(0)) for w in slot] for slot in weights]
    anchors = [[w.copy() for w in slot] for slot in weights]
    fishers = [[np.zeros_like(w) for w in slot] for slot in weights]
    projected = []
    for x in items:
        qkv = _silu(x @ p["to_qkv.weight"].T)
        logits = x @ p["lr_fc.weight"].T + p["lr_fc.bias"] + log(np.exp(0.01) - 1)
        projected.append((*np.split(qkv, 3, axis=1), np.log1p(np.exp(logits))))
    for start in range(0, len(items[0]), chunk):
        rows = slice(start, start + chunk)
        steps = []
        for (b, h), (w0, w1, w2) in zip(slots, weights):
            _, k, v, rate = projected[b]
            columns = slice(h * dim, (h + 1) * dim)
            k, v, rate = _unit(k[rows, columns]), v[rows, columns], rate[rows, 3 * h : 3 * h + 3]
            a, up, back = k @ w0, k @ w2, v @ w1.T
            s = _sigmoid(a)
            g0 = (k * rate[:, 0:1]).T @ (back * up * s * (1 + a * (1 - s)))
            g1 = (_silu(a) * up * rate[:, 1:2]).T @ v
            g2 = (k * rate[:, 2:3]).T @ (back * _silu(a))
            steps.append([_newton_schulz(g) for g in (g0, g1, g2)])
        for i in range(3):
            alpha, beta = config.fisher_alpha, config.anchor_beta
            for slot in range(len(slots)):
                fishers[slot][i] = alpha * fishers[slot][i] + (1 - alpha) * steps[slot][i] ** 2
            largest = max(fisher[i].max() for fisher in fishers)
            for slot in range(len(slots)):
                w, anchor = weights[slot][i] + steps[slot][i], anchors[slot][i]
                if config.elastic_lambda > 0:
                    free = 1 - fishers[slot][i] / (largest + 1e-8)
                    w = w - config.elastic_lambda * free * (w - anchor)
                w = w / (np.sqrt((w**2).sum(0)) + 1e-5) * norms[slot][i]
                weights[slot][i] = w
                anchors[slot][i] = beta * anchor + (1 - beta) * w
    outputs = []
    for b, (q, *_) in enumerate(projected):
        merged = np.zeros_like(items[b])
        for slot, (item, h) in enumerate(slots):
            if item == b:
                w0, w1, w2 = weights[slot]
                columns = slice(h * dim, (h + 1) * dim)
                qh = _unit(q[:, columns])
                merged[:, columns] = (_silu(qh @ w0) * (qh @ w2)) @ w1
        outputs.append(_rms_norm(merged, p["o_norm.weight"], 1e-5) @ p["c_proj.weight"].T)
    return outputs, weights


def reconstruct(
    parameters: Parameters,
    config: ReconstructorConfig,
    image: Array,
    fxfycxcy: Array,
    c2w: Array,
    chunk_views: int,
) -> tuple[Array, list[list[list[Array]]]]:
    """raw (B, N, C) for all input views, and for every layer [w0, w1, w2] of every (item, head)."""
    batch, views = image.shape[:2]
    items = []
    for b in range(batch):
        inputs = [
            tokens_of_view(image[b, v], fxfycxcy[b, v], c2w[b, v], config.patch_size)[0]
            for v in range(views)
        ]
        embedded = np.concatenate(inputs) @ parameters["tokenizer.1.weight"].T
        items.append(_layer_norm(embedded, parameters["input_layernorm.weight"]))
    per_view = len(items[0]) // views
    finals = []
    for layer in range(config.layers):

        def part(index: int, layer: int = layer) -> tuple[Array, Parameters]:
            prefix = f"blocks.{layer}.module_list.{index}."
            own = {k[len(prefix) :]: v for k, v in parameters.items() if k.startswith(prefix)}
            return own["ln.weight"], {k.removeprefix("f."): v for k, v in own.items()}

        gain, p = part(0)
        items = [
            np.concatenate(
                [
                    x[s : s + per_view]
                    + _attention(_layer_norm(x[s : s + per_view], gain), p, config)
                    for s in range(0, len(x), per_view)
                ]
            )
            for x in items
        ]
        gain, p = part(1)
        normed = [_layer_norm(x, gain) for x in items]
        answers, weights = _fast_weights(normed, p, config, chunk_views * per_view)
        finals.append(weights)
        items = [x + answer for x, answer in zip(items, answers)]
        gain, p = part(2)
        for b, x in enumerate(items):
            hidden = _layer_norm(x, gain) @ p["c_fc.weight"].T
            hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / np.sqrt(2)))
            items[b] = x + hidden @ p["c_proj.weight"].T
    decoded = [
        _layer_norm(x, parameters["decoder.0.weight"]) @ parameters["decoder.1.weight"].T
        for x in items
    ]
    return np.stack(decoded).reshape(batch, -1, config.splat_channels), finals
