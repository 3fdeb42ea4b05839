"""Mistakes that people make with action contracts, planted one at a time; the expected check and words beside each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from controllers.types import ActionSpace, FloatArray, ImageArray, Observation, frozen_array
from vla.preflight.contract import (
    ActionContract,
    ColorOrder,
    GripperContract,
    PictureContract,
    QuaternionOrder,
    Rotation,
    Scaling,
    StatisticsContract,
    Turn,
)
from vla.preflight.findings import Check
from vla.tokenizers.uniform import UniformBinTokenizer


@dataclass(frozen=True)
class DeclaredMistake:
    """A contract that says something else than the stack.

    Attributes:
        name: What went wrong.
        check: The check that must speak.
        words: Must stand in its message: what was expected and what was found.
        plant: Turns the right contract into the wrong one.
    """

    name: str
    check: Check
    words: tuple[str, ...]
    plant: Callable[[ActionContract], ActionContract]


@dataclass(frozen=True)
class HiddenMistake:
    """A policy that acts otherwise than its contract says; only its predictions tell.

    Attributes:
        name: What went wrong.
        check: The check that must speak.
        words: Must stand in its message.
        action: Alters the (horizon, dims) actions of one chunk, given the observation.
        picture: Alters every picture before the policy sees it.
    """

    name: str
    check: Check
    words: tuple[str, ...]
    action: Callable[[FloatArray, Observation], FloatArray] | None = None
    picture: Callable[[ImageArray], ImageArray] | None = None


def _statistics(contract: ActionContract) -> StatisticsContract:
    assert contract.statistics is not None
    return contract.statistics


def _with_statistics(**changes: object) -> Callable[[ActionContract], ActionContract]:
    def plant(contract: ActionContract) -> ActionContract:
        return replace(contract, statistics=replace(_statistics(contract), **changes))  # pyright: ignore

    return plant


def _other_data(contract: ActionContract) -> ActionContract:
    statistics = _statistics(contract)
    changed = replace(statistics, high=frozen_array(np.array(statistics.high) * 1.3), source="bridge_orig")
    return replace(contract, statistics=changed)


def _swapped(contract: ActionContract) -> ActionContract:
    statistics = _statistics(contract)
    return replace(contract, statistics=replace(statistics, low=statistics.high, high=statistics.low))


def _not_finite(contract: ActionContract) -> ActionContract:
    low = np.array(_statistics(contract).low)
    low[1] = np.nan
    return replace(contract, statistics=replace(_statistics(contract), low=frozen_array(low)))


def _flipped_mask(contract: ActionContract) -> ActionContract:
    mask = _statistics(contract).mask
    return replace(contract, statistics=replace(_statistics(contract), mask=(*mask[:-1], not mask[-1])))


def _in_millimetres(contract: ActionContract) -> ActionContract:
    return replace(contract, units=("mm",) * 3 + contract.units[3:])


def _in_degrees(contract: ActionContract) -> ActionContract:
    return replace(contract, units=contract.units[:3] + ("deg",) * 3 + contract.units[6:])


def _shuffled_joints(contract: ActionContract) -> ActionContract:
    joints = contract.joints or tuple(f"joint{number}" for number in range(1, 8))
    return replace(contract, joints=(joints[1], joints[0], *joints[2:]))


def _pictures(change: Callable[[str, PictureContract], tuple[str, PictureContract]]):
    def plant(contract: ActionContract) -> ActionContract:
        return replace(contract, pictures=dict(change(name, view) for name, view in contract.pictures.items()))

    return plant


DECLARED: tuple[DeclaredMistake, ...] = (
    DeclaredMistake(
        "no statistics", Check.STATISTICS_PRESENT, ("normalization statistics", "none"),
        lambda contract: replace(contract, statistics=None),
    ),
    DeclaredMistake("statistics of another data set", Check.STATISTICS_VALUES, ("0.025", "0.0325", "bridge_orig"),
                    _other_data),
    DeclaredMistake("q01 and q99 exchanged", Check.STATISTICS_FINITE, ("low <= high", "low 0.025"), _swapped),
    DeclaredMistake("statistics with a NaN", Check.STATISTICS_FINITE, ("finite statistics of dy", "nan"), _not_finite),
    DeclaredMistake("mean and std for quantiles", Check.STATISTICS_SCALING, ("quantiles", "mean_std"),
                    _with_statistics(scaling=Scaling.MEAN_STD)),
    DeclaredMistake("smallest and largest for quantiles", Check.STATISTICS_SCALING, ("quantiles", "min_max"),
                    _with_statistics(scaling=Scaling.MIN_MAX)),
    DeclaredMistake("gripper normalized, too", Check.STATISTICS_MASK, ("gripper passed through",), _flipped_mask),
    DeclaredMistake("absolute poses for deltas", Check.DELTA_OR_ABSOLUTE, ("deltas", "absolute poses (ee_pose)"),
                    lambda contract: replace(contract, space=ActionSpace.EE_POSE)),
    DeclaredMistake("joints for the end effector", Check.ACTION_SPACE, ("ee_delta", "joint_position"),
                    lambda contract: replace(contract, space=ActionSpace.JOINT_POSITION)),
    DeclaredMistake("tool frame for base frame", Check.FRAME, ("'base'", "'end_effector'"),
                    lambda contract: replace(contract, frame="end_effector")),
    DeclaredMistake("millimetres", Check.UNITS, ("dx in m", "mm"), _in_millimetres),
    DeclaredMistake("degrees", Check.UNITS, ("drx in rad", "deg"), _in_degrees),
    DeclaredMistake("Euler angles", Check.ROTATION, ("rotation_vector", "euler_xyz"),
                    lambda contract: replace(contract, rotation=Rotation.EULER_XYZ)),
    DeclaredMistake("scalar-last quaternions", Check.QUATERNION_ORDER, ("wxyz", "xyzw"),
                    lambda contract: replace(contract, quaternions=QuaternionOrder.XYZW)),
    DeclaredMistake("gripper the other way", Check.GRIPPER_POLARITY, ("1 opens and 0 closes", "0 opens and 1 closes"),
                    lambda contract: replace(contract, gripper=GripperContract(closed=1.0, open=0.0))),
    DeclaredMistake("gripper from -1 to 1", Check.GRIPPER_RANGE, ("closed 0, open 1", "closed -1, open 1"),
                    lambda contract: replace(contract, gripper=GripperContract(closed=-1.0, open=1.0))),
    DeclaredMistake("two joints exchanged", Check.JOINT_ORDER,
                    ("expected panda_joint1, panda_joint2", "found panda_joint2, panda_joint1"), _shuffled_joints),
    DeclaredMistake("50 Hz for 20 Hz", Check.CONTROL_RATE, ("20 rows a second", "50", "0.4 times as fast"),
                    lambda contract: replace(contract, rate_hz=50)),
    DeclaredMistake("chunks of 16", Check.CHUNK_LENGTH, ("chunks of 8 rows", "16"),
                    lambda contract: replace(contract, horizon=16)),
    DeclaredMistake("another tokenizer", Check.TOKENIZER, ("'uniform-255/rt2'", "'uniform-256/rt2'"),
                    lambda contract: replace(contract, tokenizer_id=UniformBinTokenizer(bins=256).tokenizer_id)),
    DeclaredMistake("pictures of 224 px", Check.IMAGE_SIZE, ("128 x 128", "224 x 224"),
                    _pictures(lambda name, view: (name, replace(view, height=224, width=224)))),
    DeclaredMistake("BGR", Check.COLOR_ORDER, ("rgb", "bgr"),
                    _pictures(lambda name, view: (name, replace(view, color=ColorOrder.BGR)))),
    DeclaredMistake("pictures turned", Check.IMAGE_TURN, ("turned: none", "rotate_180"),
                    _pictures(lambda name, view: (name, replace(view, turn=Turn.ROTATE_180)))),
    DeclaredMistake("another camera name", Check.CAMERA_NAMES, ("'front'", "workspace, wrist"),
                    _pictures(lambda name, view: ("front" if name == "workspace" else name, view))),
    DeclaredMistake("a prompt without the instruction", Check.PROMPT, ("{instruction}", "'In: do it. Out:'"),
                    lambda contract: replace(contract, prompt="In: do it. Out:")),
)  # fmt: skip


def _scaled(dims: slice, factor: float) -> Callable[[FloatArray, Observation], FloatArray]:
    def alter(actions: FloatArray, seen: Observation) -> FloatArray:
        changed = actions.copy()
        changed[:, dims] *= factor
        return changed

    return alter


def _inverted_gripper(actions: FloatArray, seen: Observation) -> FloatArray:
    changed = actions.copy()
    changed[:, -1] = 1.0 - changed[:, -1]
    return changed


def _absolute_positions(actions: FloatArray, seen: Observation) -> FloatArray:
    changed = actions.copy()
    changed[:, :3] = seen.commanded_pose.position + np.cumsum(actions[:, :3], axis=0)
    return changed


def _mirrored(actions: FloatArray, seen: Observation) -> FloatArray:
    changed = actions.copy()
    changed[:, :2] *= -1.0
    return changed


def _exchanged(actions: FloatArray, seen: Observation) -> FloatArray:
    changed = actions.copy()
    changed[:, [0, 2]] = actions[:, [2, 0]]
    return changed


HIDDEN: tuple[HiddenMistake, ...] = (
    HiddenMistake("predicts millimetres", Check.UNITS, ("mm instead of m",), _scaled(slice(0, 3), 1000.0)),
    HiddenMistake("predicts degrees", Check.UNITS, ("degrees instead of radians",), _scaled(slice(3, 6), 57.29578)),
    HiddenMistake("gripper inverted", Check.GRIPPER_POLARITY, ("when inverted",), _inverted_gripper),
    HiddenMistake("predicts positions", Check.DELTA_OR_ABSOLUTE, ("absolute positions",), _absolute_positions),
    HiddenMistake("base turned half round", Check.SIGN, ("the other way",), _mirrored),
    HiddenMistake("x and z exchanged", Check.JOINT_ORDER, ("it follows",), _exchanged),
    HiddenMistake("trained on BGR", Check.COLOR_ORDER, ("reversed channels",), picture=lambda image: image[..., ::-1]),
    HiddenMistake("trained on turned pictures", Check.IMAGE_TURN, ("turned by 180 degrees",),
                  picture=lambda image: image[::-1, ::-1]),
)  # fmt: skip


Predict = Callable[[Observation], FloatArray]


def planted(mistake: HiddenMistake, predict: Predict) -> Predict:
    """A policy that makes the mistake."""

    def wrong(seen: Observation) -> FloatArray:
        alter = mistake.picture
        if alter is not None:
            pictures: Mapping[str, ImageArray] = {
                name: np.ascontiguousarray(alter(image)) for name, image in seen.images.items()
            }
            seen = replace(seen, images=pictures)
        actions = predict(seen)
        return actions if mistake.action is None else mistake.action(actions, seen)

    return wrong
