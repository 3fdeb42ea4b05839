"""What an OpenVLA-OFT folder does not say of itself and has to be declared, held against its files; without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np

from controllers.names import unknown_name
from controllers.types import ActionSpec, FloatArray, frozen_array
from vla.openvla.published import ActionStatistics, CheckpointError, action_spec
from vla.serving.fields import StateField

# The eight values of LIBERO's data set, the platform that checkpoints were published for (prismatic/vla/constants.py).
LIBERO_STATE = (StateField.EE_POSITION, StateField.EE_AXIS_ANGLE, StateField.GRIPPER_FINGERS)
L1_TOKENIZER = "uniform-1023/rt2"  # continuous values are rounded by at most 1/2046 of their range
# Metres a row. Statistics beyond it are in a controller's units: LIBERO's are shares of 5 cm and half a radian.
_LARGEST_TRANSLATION = 0.2


class ActionHead(Enum):
    """How the last hidden states become actions."""

    L1 = "l1"  # a regression head: continuous values
    TOKENS = "tokens"  # the language model's own head: one token for each value, all at once


@dataclass(frozen=True, kw_only=True)
class OFTDeclaration:
    """How a checkpoint was trained; nothing in its folder says so.

    Attributes:
        statistics_key: Data set whose statistics un-normalize (``unnorm_key``).
        rate_hz: Actions per second of that data set.
        cameras: The robot's cameras that the model sees, in its order: the third person's first, then the wrists'.
        head: Which head it was trained with.
        horizon: Rows of a chunk: 8 for LIBERO, 5 for Bridge.
        state: Parts of the proprioceptive state, in its order; empty for a model that has none.
        origin: (3,) m, where the robot's base lies in the frame of the data set's positions, whose axes are parallel to
            the base's.
        film: Whether language modulates its vision towers.
        units: What one unit of the data set's translations is in m, and one of its rotations in rad.
        overshoot: Share of an action's range by which the L1 head may miss it; such values are brought to its end and
            counted. What lies farther out refuses the chunk.
        center_crop: Share of each picture's area that is kept; see :class:`~vla.openvla.images.ImageProcessor`.
    """

    statistics_key: str
    rate_hz: int
    cameras: tuple[str, ...]
    head: ActionHead = ActionHead.L1
    horizon: int = 8
    state: tuple[StateField, ...] = ()
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    film: bool = False
    units: tuple[float, float] = (1.0, 1.0)
    overshoot: float = 0.1
    center_crop: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no checkpoint can be.

        Raises:
            CheckpointError: Says what was expected.
        """
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise CheckpointError(
                f"expected each of the model's cameras once, found {', '.join(self.cameras) or 'none'}"
            )
        if self.horizon < 1:
            raise CheckpointError(f"expected a chunk of at least one row, found {self.horizon}")
        if not all(np.isfinite(unit) and unit > 0.0 for unit in self.units):
            raise CheckpointError(f"expected positive units (m, rad), found {self.units}")
        if not np.isfinite(self.origin).all():
            raise CheckpointError(f"expected a finite origin (m), found {self.origin}")
        if self.center_crop is not None and not 0.0 < self.center_crop <= 1.0:
            raise CheckpointError(f"expected a share of the area in (0, 1] as centre crop, found {self.center_crop}")
        if not 0.0 <= self.overshoot < 1.0:
            raise CheckpointError(f"expected a share of the range in [0, 1) as overshoot, found {self.overshoot}")


@dataclass(frozen=True)
class Components:
    """The files beside the safetensors; None where the folder has no such file."""

    action_head: Path | None
    proprio_projector: Path | None
    vision_backbone: Path | None


def state_parts(names: Iterable[str]) -> tuple[StateField, ...]:
    """Parts of the state by their names.

    Raises:
        CheckpointError: No such part; names the nearest.
    """
    known = [part.value for part in StateField]
    parts: list[StateField] = []
    for name in names:
        if name not in known:
            raise CheckpointError(unknown_name("part of the state", name, known))
        parts.append(StateField(name))
    return tuple(parts)


def find_components(folder: Path, declaration: OFTDeclaration) -> Components:
    """The files of a folder, as they were declared: neither one missing nor one that would not be used.

    Raises:
        CheckpointError: Says which file, and how to declare it.
    """
    if _component(folder, "noisy_action_projector") is not None:
        raise CheckpointError(
            f"{folder}: expected an L1 or a token head, found the files of a diffusion head, which is not implemented; "
            "choose a checkpoint trained with L1 regression"
        )
    found = Components(*(_component(folder, name) for name in ("action_head", "proprio_projector", "vision_backbone")))
    layout = " ".join(part.value for part in LIBERO_STATE)
    _agree(
        folder,
        "action_head",
        found.action_head,
        declaration.head is ActionHead.L1,
        declare="head l1 (--oft-head l1)",
        withdraw="head tokens (--oft-head tokens)",
    )
    _agree(
        folder,
        "proprio_projector",
        found.proprio_projector,
        bool(declaration.state),
        declare=f"the parts of its state (--oft-state; LIBERO's are {layout})",
        withdraw="no state",
    )
    _agree(
        folder,
        "vision_backbone",
        found.vision_backbone,
        declaration.film,
        declare="FiLM (--oft-film)",
        withdraw="no FiLM",
    )
    return found


def is_oft(folder: Path) -> bool:
    """Whether a folder has one of OFT's own files; a model with tokens only has none and looks like OpenVLA."""
    return any(folder.glob("*--*checkpoint.pt"))


def _component(folder: Path, name: str) -> Path | None:
    """``NAME--STEP_checkpoint.pt``, of which there may be one."""
    files = sorted(folder.glob(f"{name}--*checkpoint.pt"))
    if len(files) > 1:
        raise CheckpointError(
            f"{folder}: expected one file {name}--STEP_checkpoint.pt, found {', '.join(file.name for file in files)}; "
            "keep the one of the weights' step"
        )
    return files[0] if files else None


def _agree(folder: Path, name: str, found: Path | None, declared: bool, *, declare: str, withdraw: str) -> None:
    if declared and found is None:
        raise CheckpointError(
            f"{folder}: expected {name}--STEP_checkpoint.pt, found none; download the whole checkpoint, or declare "
            f"{withdraw} if it was trained so"
        )
    if found is not None and not declared:
        raise CheckpointError(f"{folder}: expected no {name}, found {found.name}; declare {declare}")


def oft_spec(statistics: ActionStatistics, declaration: OFTDeclaration) -> ActionSpec:
    """The contract of a checkpoint's chunks, in m and rad.

    Raises:
        CheckpointError: Other than seven dimensions, or translations that cannot be metres.
    """
    scale = action_scale(declaration)
    if statistics.q01.size != scale.size:
        action_spec(statistics, declaration.rate_hz)  # says what is expected
    ours = replace(statistics, q01=frozen_array(statistics.q01 * scale), q99=frozen_array(statistics.q99 * scale))
    farthest = float(np.abs([ours.q01[:3], ours.q99[:3]]).max())
    if farthest > _LARGEST_TRANSLATION:
        raise CheckpointError(
            f"expected translations of at most {_LARGEST_TRANSLATION:g} m a row, found {farthest:.3g} m: they "
            "seem to be in a controller's units; say what one of them is (--oft-units, for LIBERO 0.05 0.5)"
        )
    return action_spec(ours, declaration.rate_hz, declaration.horizon)


def action_scale(declaration: OFTDeclaration) -> FloatArray:
    """(7,) the spec's unit in those of the data set: what its actions are multiplied with."""
    metres, radians = declaration.units
    return frozen_array([metres] * 3 + [radians] * 3 + [1.0])
