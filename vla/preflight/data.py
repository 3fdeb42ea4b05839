"""The other half of a preflight: recorded actions against those that the policy predicts for the same observations.

A contract may be wrong in what it declares. Then the data disagree: the predictions are a thousand times too large,
move the gripper the other way, or fit only once the pictures are turned. Each suspicion is a hypothesis that must
explain the data far better than the contract does; a policy that is merely bad raises none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from controllers.types import ActionSpace, FloatArray
from vla.preflight.contract import ActionContract
from vla.preflight.findings import Check, Finding

_MIN_CHUNKS = 5
_BETTER = 0.6  # a hypothesis must leave less than this share of the error
_CORRELATED = 0.6
_EXCHANGED = 0.4  # two dimensions fit so much better when they are exchanged
_STEP = 1.0 / 255  # of the range: what a usual tokenizer cannot tell apart
_SCALES = {1000.0: "mm instead of m", 0.001: "m instead of mm", 57.29578: "degrees instead of radians",
           0.01745329: "radians instead of degrees", 100.0: "cm instead of m", 0.01: "m instead of cm"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """Recorded and predicted chunks for the same observations, in the units of the actions.

    Attributes:
        recorded: (N, horizon, dims) actions that were executed.
        predicted: (N, horizon, dims) actions that the policy gives.
        altered: What it gives when the pictures are altered: name of the alteration -> (N, horizon, dims).
        ee_position: (N, 3) m, sensed, base frame.
    """

    recorded: FloatArray
    predicted: FloatArray
    altered: Mapping[Check, FloatArray]
    ee_position: FloatArray


def compare_recorded(recorded: FloatArray, contract: ActionContract, where: str) -> list[Finding]:
    """Recorded actions against a contract's statistics and bounds; needs no predictions.

    Args:
        recorded: (N, horizon, dims) in the units of the recording.
        contract: The policy's.
        where: The episode, for messages.
    """
    return [] if len(recorded) < _MIN_CHUNKS else list(_coverage(recorded, contract, where))


def compare_predicted(data: Comparison, contract: ActionContract) -> list[Finding]:
    """Predicted against recorded actions."""
    if len(data.recorded) < _MIN_CHUNKS:
        return []
    findings = [*_absolute(data, contract)]
    if not findings:
        findings += [*_scale(data, contract)]
    findings += [*_gripper(data, contract)]
    if not findings:  # altered pictures explain everything at once, so they come before single dimensions
        findings += [*_alterations(data, contract)]
    if not findings:
        findings += [*_order_and_sign(data, contract)]
    return findings


def _span(contract: ActionContract) -> FloatArray:
    return np.maximum(contract.upper - contract.lower, 1e-9)


def _arm_dims(contract: ActionContract) -> list[int]:
    return [index for index, name in enumerate(contract.names) if name != "gripper"]


def _coverage(recorded: FloatArray, contract: ActionContract, where: str) -> Iterator[Finding]:
    """Actions of a robot lie within the quantiles of its own data, and fill some of them."""
    statistics = contract.statistics
    if statistics is None:
        return
    flat = recorded.reshape(-1, recorded.shape[-1])
    slack = 0.02 * _span(contract)
    outside = ((flat < contract.lower - slack) | (flat > contract.upper + slack)).mean(axis=0)
    worst = int(outside.argmax())
    if outside[worst] > 0.05:
        largest = float(np.abs(flat[:, worst]).max())
        yield Finding(
            Check.ACTION_SCALE,
            f"recorded {contract.names[worst]} within [{contract.lower[worst]:.4g}, {contract.upper[worst]:.4g}] "
            f"{contract.units[worst]}",
            f"{100 * outside[worst]:.0f}% beyond it, up to {largest:.4g}, in {where}",
            "the episode's units or statistics are not the policy's",
        )


def _absolute(data: Comparison, contract: ActionContract) -> Iterator[Finding]:
    """Predicted translations that follow the end effector's own position are poses, not deltas; and the reverse."""
    if contract.space not in (ActionSpace.EE_DELTA, ActionSpace.EE_POSE):
        return
    translation = data.predicted[:, 0, :3]
    as_delta = float(np.abs(translation).mean())
    as_pose = float(np.abs(translation - data.ee_position).mean())
    far = float(np.abs(data.ee_position).mean())
    limit = float(np.abs(contract.upper[:3] - contract.lower[:3]).mean())
    if contract.space is ActionSpace.EE_DELTA and as_pose < 0.25 * far and as_delta > limit:
        found, expected = "absolute positions of the end effector", "deltas"
    elif contract.space is ActionSpace.EE_POSE and as_delta < 0.25 * far and as_pose > 0.5 * far:
        found, expected = "deltas", "absolute positions of the end effector"
    else:
        return
    yield Finding(
        Check.DELTA_OR_ABSOLUTE,
        expected,
        f"predictions that look like {found} (mean {as_delta:.3g} m)",
        "declare the space that the checkpoint was trained in",
    )


def _scale(data: Comparison, contract: ActionContract) -> Iterator[Finding]:
    """Predictions of a fitting policy are about as large as what was recorded."""
    for unit in dict.fromkeys(contract.units[index] for index in _arm_dims(contract)):
        dims = [index for index in _arm_dims(contract) if contract.units[index] == unit]
        recorded, predicted = data.recorded[..., dims], data.predicted[..., dims]
        size, found = _rms(recorded), _rms(predicted)
        step = _STEP * float(_span(contract)[dims].mean())
        if size < step and found < 10.0 * step:
            continue  # it hardly moved, and hardly should
        ratio = found / max(size, 0.01 * step)
        if 0.2 < ratio < 5.0:
            continue
        factor = min(_SCALES, key=lambda scale: abs(np.log(ratio / scale)) if ratio > 0 else np.inf)
        named = ratio > 0 and 0.4 < ratio / factor < 2.5
        names = ", ".join(contract.names[index] for index in dims)
        yield Finding(
            Check.UNITS if named else Check.ACTION_SCALE,
            f"predictions of {names} about as large as recorded ({size:.3g} {unit})",
            f"{found:.3g}, {ratio:.3g} times as large" + (f": {_SCALES[factor]}" if named else ""),
            "scale the actions" if named else "check the statistics (unnorm_key) that un-normalize them",
        )


def _gripper(data: Comparison, contract: ActionContract) -> Iterator[Finding]:
    if "gripper" not in contract.names:
        return
    index = contract.names.index("gripper")
    low, high = sorted((contract.gripper.closed, contract.gripper.open))
    recorded, predicted = data.recorded[..., index].ravel(), data.predicted[..., index].ravel()
    as_is = float(np.abs(predicted - recorded).mean())
    inverted = float(np.abs(low + high - predicted - recorded).mean())
    if as_is > 0.5 * (high - low) and inverted < 0.25 * (high - low):
        yield Finding(
            Check.GRIPPER_POLARITY,
            f"{contract.gripper.open:g} to open, as recorded",
            f"predictions that are {100 * as_is / (high - low):.0f}% of the range away, and "
            f"{100 * inverted / (high - low):.0f}% when inverted",
            "invert the gripper dimension",
        )
    slack = 0.1 * (high - low)
    beyond = float(((predicted < low - slack) | (predicted > high + slack)).mean())
    if beyond > 0.25:
        yield Finding(
            Check.GRIPPER_RANGE,
            f"gripper actions in [{low:g}, {high:g}]",
            f"{100 * beyond:.0f}% of the predictions beyond it, from {predicted.min():.3g} to {predicted.max():.3g}",
            "scale the gripper dimension",
        )


def _order_and_sign(data: Comparison, contract: ActionContract) -> Iterator[Finding]:
    """Each predicted dimension should follow its own recorded one, not another's, and not backwards."""
    pairs = list(_exchanged(data, contract))
    yield from pairs
    dims = [index for index in _arm_dims(contract) if _moves(data, contract, index)]
    if pairs or not dims:
        return
    recorded, predicted = data.recorded[..., dims], data.predicted[..., dims]
    relation = _correlation(predicted.reshape(-1, len(dims)), recorded.reshape(-1, len(dims)))
    own = np.diag(relation)
    backwards = [index for place, index in enumerate(dims) if own[place] < -_CORRELATED]
    if _may_be_symmetry(backwards, contract):
        backwards = []
    for place, index in enumerate(dims):
        other = int(relation[place].argmax())
        mutual = int(relation[:, place].argmax())
        name = contract.names[index]
        if index in backwards:
            yield Finding(
                Check.SIGN,
                f"predicted {name} to follow the recorded one",
                f"correlation {own[place]:.2f}: it goes the other way",
                "check the frame of the actions, and the handedness of its axes",
            )
        elif (
            contract.units[index] == contract.units[dims[other]]
            and other != place
            and relation[place, other] > _CORRELATED
            and -_CORRELATED < own[place] < 0.3
            and mutual != place
        ):
            yield Finding(
                Check.JOINT_ORDER,
                f"predicted {name} to follow the recorded one (correlation {own[place]:.2f})",
                f"it follows {contract.names[dims[other]]} ({relation[place, other]:.2f})",
                "permute the dimensions",
            )


def _may_be_symmetry(backwards: list[int], contract: ActionContract) -> bool:
    """Whether a single turn of the hand goes the other way: that is how two fingers grasp from either side.

    A frame that is turned or mirrored turns more than one axis.
    """
    hand = contract.space in (ActionSpace.EE_DELTA, ActionSpace.EE_POSE)
    return hand and len(backwards) == 1 and contract.units[backwards[0]] == "rad"


def _exchanged(data: Comparison, contract: ActionContract) -> Iterator[Finding]:
    """Two dimensions of the same unit that fit far better when they are exchanged."""
    dims = _arm_dims(contract)
    size = np.abs(data.predicted - data.recorded) / _span(contract)
    for place, first in enumerate(dims):
        for second in dims[place + 1 :]:
            if contract.units[first] != contract.units[second]:
                continue
            both = [first, second]
            as_is = float(size[..., both].mean())
            swapped = np.abs(data.predicted[..., [second, first]] - data.recorded[..., both]) / _span(contract)[both]
            found = float(swapped.mean())
            if as_is > 0.02 and found < _EXCHANGED * as_is:
                yield Finding(
                    Check.JOINT_ORDER,
                    f"predicted {contract.names[first]} and {contract.names[second]} to follow the recorded ones",
                    f"an error of {100 * as_is:.1f}% of the range, and {100 * found:.1f}% where each one is the other: "
                    f"it follows {contract.names[second]}",
                    "permute the dimensions",
                )


def _alterations(data: Comparison, contract: ActionContract) -> Iterator[Finding]:
    """Predictions that fit only when the pictures are altered tell how the policy wants them."""
    as_is = _error(data.predicted, data.recorded, contract)
    errors = {check: _error(altered, data.recorded, contract) for check, altered in data.altered.items()}
    if not errors:
        return
    check = min(errors, key=lambda name: errors[name])
    if errors[check] < _BETTER * as_is and as_is > 0.01:
        words = {Check.COLOR_ORDER: "reversed channels", Check.IMAGE_TURN: "pictures turned by 180 degrees"}
        yield Finding(
            check,
            "predictions that fit the recorded actions best with the pictures as they are",
            f"an error of {100 * as_is:.1f}% of the range, and {100 * errors[check]:.1f}% with {words[check]}",
            "give the policy the pictures as it was trained",
        )


def _moves(data: Comparison, contract: ActionContract, index: int) -> bool:
    least = 0.02 * float(_span(contract)[index])
    return float(data.recorded[..., index].std()) > least and float(data.predicted[..., index].std()) > least


def _error(predicted: FloatArray, recorded: FloatArray, contract: ActionContract) -> float:
    return float((np.abs(predicted - recorded) / _span(contract)).mean())


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n, n) correlation of every column of ``a`` with every column of ``b``."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.sqrt(np.square(a).sum(axis=0))[:, None] * np.sqrt(np.square(b).sum(axis=0))[None, :]
    return (a.T @ b) / np.maximum(scale, 1e-12)
