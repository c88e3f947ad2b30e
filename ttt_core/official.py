"""Released tttLRM weights as a model that streams: the adapter that the engine runs.

Block-causal (our sheet, section 6): every batch is first written into the fast weights of a layer,
then read, at constant cost. The released weights were trained to see all views again at every step,
so that later batches differ from what the released code would give; the first is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ttt_core.errors import ConfigError, StateMismatchError
from ttt_core.matching import PriorConfig
from ttt_core.official_files import load_reconstructor
from ttt_core.official_splats import SplatLayout, predict_pixels
from ttt_core.poses import normalize_poses
from ttt_core.reconstructor import Reconstruction, Reconstructor
from ttt_core.state import ReconstructorState
from ttt_core.submap import SubmapFrame
from ttt_core.views import Prediction, ViewBatch

_MEMORY, _FRAME = "reconstructor.", "frame."


@dataclass(frozen=True, slots=True, eq=False)
class OfficialState:
    """Fast weights of a released model, and the frame that the first batch fixed.

    Attributes:
        memory: of every layer (batch size 1).
        frame: None until the first batch.
    """

    memory: ReconstructorState
    frame: SubmapFrame | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held by all tensors; the same however long the stream."""
        return sum(t.numel() * t.element_size() for t in self.to_tensors().values())

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat `name -> tensor` form (not copied) that a file can hold."""
        tensors = {_MEMORY + name: t for name, t in self.memory.to_tensors().items()}
        if self.frame is not None:
            tensors[_FRAME + "world_from_submap"] = self.frame.world_from_submap
            tensors[_FRAME + "scale"] = self.frame.scale
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> OfficialState:
        """The inverse of `to_tensors`.

        Raises:
            StateMismatchError: names are unknown or missing.
        """
        memory, frame = {}, {}
        for name, tensor in tensors.items():
            if name.startswith(_MEMORY):
                memory[name.removeprefix(_MEMORY)] = tensor
            elif name.startswith(_FRAME):
                frame[name.removeprefix(_FRAME)] = tensor
            else:
                raise StateMismatchError(
                    f"state tensor {name!r} is unknown: was the state saved with a tttLRM model?"
                )
        if not memory or (frame and frame.keys() != {"world_from_submap", "scale"}):
            raise StateMismatchError(
                f"the state holds {len(memory)} tensors of fast weights and of its frame "
                f"{sorted(frame)}: the file is cut, or was not saved with a tttLRM model"
            )
        return cls(ReconstructorState.from_tensors(memory), SubmapFrame(**frame) if frame else None)


class OfficialModel:
    """A `Reconstructor` behind the interface of the streaming model (`StreamModel`).

    The first batch fixes frame and unit: the first camera, and the largest translation component
    among the batch's cameras as 1 (cameras in one place: 1 world unit). The released code
    normalises over ALL views, which a stream cannot know; later cameras lie outside of the unit
    box. A first batch of small steps makes a small unit; give `unit` where the size of the place
    is known.

    Pictures are padded to whole patches by repeating their last row and column. Masked pixels are
    shown grey and predicted with confidence 0. Sensor depth takes the place of what is decoded;
    the rendered map is not used. What a prediction cannot carry of a splat: see `predict_pixels`.
    """

    trained = True

    def __init__(
        self,
        reconstructor: Reconstructor,
        *,
        unit: float | None = None,
        autocast: bool = False,
        layout: SplatLayout | None = None,
    ) -> None:
        """
        Args:
            reconstructor: on the device that it is to run on.
            unit: world units of one unit of the model's frame; None takes the first batch's extent.
            autocast: bfloat16 where torch's autocast uses it, as the weights were trained.

        Raises:
            ConfigError: `unit` is not above 0.
        """
        if unit is not None and not 0 < unit < float("inf"):
            raise ConfigError(f"unit is {unit}: give a finite number of world units > 0")
        self.reconstructor = reconstructor.eval().requires_grad_(False)
        self.unit = unit
        self.autocast = autocast
        self.layout = layout or SplatLayout()

    @property
    def device(self) -> torch.device:
        return self.reconstructor.input_layernorm.weight.device

    def describe(self) -> str:
        """What the map is made of, and under which terms."""
        config = self.reconstructor.config
        parameters = sum(p.numel() for p in self.reconstructor.parameters())
        memory = 3 * config.layers * config.width * config.fast_weight_hidden
        return (
            f"tttLRM checkpoint: {config.layers} layers of width {config.width}, "
            f"{parameters / 1e6:.1f} M parameters, {4e-6 * memory:.1f} MB of fast weights, "
            "streaming batch by batch. Weights under the Adobe Research License (non-commercial)."
        )

    def initial_state(self) -> OfficialState:
        """The state before the first batch."""
        return OfficialState(self.reconstructor.initial_state(1).detach())

    @torch.no_grad()
    def stream(self, state: OfficialState, batch: ViewBatch) -> tuple[OfficialState, Prediction]:
        """Take in the next key frames; a batch that makes the numbers overflow is not kept.

        Raises:
            StateMismatchError: `state` was made by a model of another configuration.
        """
        frame = state.frame or self._first_frame(batch)
        memory, output = self._run(state, frame, batch, write=True)
        if not torch.isfinite(output.raw).all():
            memory = state.memory
        return OfficialState(memory, frame), self._prediction(output, frame, batch)

    @torch.no_grad()
    def query(self, state: OfficialState, batch: ViewBatch) -> Prediction:
        """Predict any views with the memory as it stands; `state` is untouched.

        Raises:
            StateMismatchError: `state` is empty or was made by a model of another configuration.
        """
        if state.frame is None:
            raise StateMismatchError(
                "the state holds no batch yet, so that it has no frame to answer in: call stream "
                "first"
            )
        output = self._run(state, state.frame, batch, write=False)[1]
        return self._prediction(output, state.frame, batch)

    def move(
        self,
        state: OfficialState,
        poses: Mapping[int, NDArray[np.float64] | Tensor],
        scales: Mapping[int, float] | None = None,
    ) -> OfficialState:
        """The state itself: such fast weights cannot be edited, and what they hold was written with
        the poses of its time. Batches after a correction come with corrected poses."""
        return state

    def warm_up(self, height: int, width: int) -> None:
        """Nothing is compiled; on CUDA one view goes through, which loads the kernels."""
        if self.device.type == "cuda":
            batch = ViewBatch(
                keys=(0,),
                image=torch.zeros(1, 3, height, width),
                fxfycxcy=torch.tensor([[width, width, width / 2, height / 2]]).float(),
                c2w=torch.eye(4, dtype=torch.float64)[None],
            )
            self.stream(self.initial_state(), batch)

    def _first_frame(self, batch: ViewBatch) -> SubmapFrame:
        poses = normalize_poses(batch.c2w.cpu(), "first_cam")
        unit = poses.scene_scale
        if self.unit is not None:
            unit = torch.full_like(unit, self.unit)
        return SubmapFrame(poses.world_from_normalized, unit)

    def _run(
        self, state: OfficialState, frame: SubmapFrame, batch: ViewBatch, *, write: bool
    ) -> tuple[ReconstructorState, Reconstruction]:
        device = self.device
        image = batch.image.to(device)
        if batch.valid is not None:
            # grey: nothing to see
            image = torch.where(batch.valid.to(device)[:, None], image, 0.5)
        patch = self.reconstructor.config.patch_size
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % patch, 0, -height % patch), mode="replicate")
        local = frame.localize(batch.c2w.to(device))
        views = (image[None], batch.fxfycxcy.to(device)[None], local[None])
        memory = state.memory.map(lambda t: t.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            if write:
                return self.reconstructor.stream(memory, *views)
            return memory, self.reconstructor.query(memory, *views)

    def _prediction(
        self, output: Reconstruction, frame: SubmapFrame, batch: ViewBatch
    ) -> Prediction:
        height, width = batch.image.shape[-2:]
        prediction = predict_pixels(
            output,
            batch.fxfycxcy.to(self.device),
            (height, width),
            patch_size=self.reconstructor.config.patch_size,
            unit=float(frame.scale),
            layout=self.layout,
        )
        if not torch.isfinite(output.raw).all():
            prediction = _nothing(prediction, float(frame.scale))
        if batch.sensor_depth is not None:
            prediction = _with_sensor(prediction, batch.sensor_depth.to(self.device))
        if batch.valid is not None:
            known = batch.valid.to(self.device)
            confidence = torch.where(known, prediction.confidence, 0.0)
            prediction = replace(prediction, confidence=confidence)
        return prediction


def load_official(path: str | Path, device: str | torch.device = "cpu") -> OfficialModel:
    """A tttLRM checkpoint as the engine's model; bfloat16 where autocast uses it on CUDA.

    Raises:
        CheckpointError: as `load_reconstructor`.
    """
    reconstructor = load_reconstructor(path).to(device)
    return OfficialModel(reconstructor, autocast=torch.device(device).type == "cuda")


def _nothing(prediction: Prediction, unit: float) -> Prediction:
    """A prediction that says nothing: a depth that is somewhere, and no confidence in it."""
    zeros = {
        name: torch.zeros_like(getattr(prediction, name))
        for name in ("log_scale_residual", "opacity_logit_residual", "rotation_residual")
    }
    return Prediction(
        depth=torch.full_like(prediction.depth, unit),
        confidence=torch.zeros_like(prediction.confidence),
        color=torch.full_like(prediction.color, 0.5),
        **zeros,
    )


def _with_sensor(prediction: Prediction, sensed: Tensor) -> Prediction:
    """Measured depth and the layout's own splats where there is any."""
    there = sensed > 0
    everywhere = there[:, None]
    return Prediction(
        depth=torch.where(there, sensed, prediction.depth),
        confidence=torch.where(there, PriorConfig().sensor_confidence, prediction.confidence),
        color=prediction.color,
        log_scale_residual=torch.where(everywhere, 0.0, prediction.log_scale_residual),
        opacity_logit_residual=torch.where(there, 0.0, prediction.opacity_logit_residual),
        rotation_residual=prediction.rotation_residual,
    )
