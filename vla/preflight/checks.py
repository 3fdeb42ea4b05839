"""The cheap half of a preflight: two contracts compared entry by entry, without weights and without data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from controllers.types import ActionSpace, FloatArray
from vla.preflight.contract import ActionContract, Scaling
from vla.preflight.findings import Check, Finding

_RELATIVE = 1e-6  # of a dimension's span: what storage in another precision may change


def compare(policy: ActionContract, stack: ActionContract, instruction: str = "") -> list[Finding]:
    """Every difference between what a policy and a stack mean; empty when they agree.

    Args:
        policy: What the policy was trained for.
        stack: What the robot's stack executes and gives.
        instruction: Words that it will be told; they must not hold the prompt already.
    """
    findings: list[Finding] = []
    for check in (_meaning, _numbers, _statistics, _rotations, _gripper, _timing, _pictures):
        findings += check(policy, stack)
    findings += _language(policy, instruction)
    return findings


# -------------------------------------------------------------------------------- what the dimensions mean


def _meaning(policy: ActionContract, stack: ActionContract) -> Iterator[Finding]:
    if policy.space is not stack.space:
        cartesian = (ActionSpace.EE_DELTA, ActionSpace.EE_POSE)
        if policy.space in cartesian and stack.space in cartesian:
            delta = {ActionSpace.EE_DELTA: "deltas", ActionSpace.EE_POSE: "absolute poses"}
            yield Finding(
                Check.DELTA_OR_ABSOLUTE,
                f"{delta[stack.space]} ({stack.space.value})",
                f"{delta[policy.space]} ({policy.space.value})",
                "execute it with an action spec of that space, or use the checkpoint of the other kind",
            )
        else:
            yield Finding(
                Check.ACTION_SPACE,
                stack.space.value,
                policy.space.value,
                "choose an action spec and a controller for the policy's space",
            )
    if policy.frame != stack.frame:
        yield Finding(
            Check.FRAME, f"actions in {stack.frame!r}", f"{policy.frame!r}", "rotate the actions, or declare the frame"
        )
    if policy.joints and stack.joints and policy.joints != stack.joints:
        yield Finding(
            Check.JOINT_ORDER,
            ", ".join(stack.joints),
            ", ".join(policy.joints),
            "permute the joints to the robot description's order, or use the description that it was trained with",
        )
    if policy.dims != stack.dims:
        yield Finding(
            Check.DIMENSIONS,
            f"{stack.dims} ({', '.join(stack.names)})",
            f"{policy.dims} ({', '.join(policy.names)})",
            "use the statistics and the action head of this robot",
        )
    elif policy.names != stack.names and policy.space is stack.space:
        reordered = sorted(policy.names) == sorted(stack.names)
        yield Finding(
            Check.JOINT_ORDER if reordered else Check.DIMENSIONS,
            ", ".join(stack.names),
            ", ".join(policy.names),
            "permute the dimensions" if reordered else "declare the same names, or another action spec",
        )


def _numbers(policy: ActionContract, stack: ActionContract) -> Iterator[Finding]:
    if policy.dims != stack.dims:
        return
    for name, found, expected in zip(stack.names, policy.units, stack.units, strict=False):
        if found != expected:
            yield Finding(
                Check.UNITS, f"{name} in {expected}", found, f"scale {name} to {expected}, or declare the unit"
            )
    if policy.units == stack.units:
        for name, found, expected in (("lower", policy.lower, stack.lower), ("upper", policy.upper, stack.upper)):
            differs = _first_difference(found, expected, stack)
            if differs is not None:
                yield Finding(
                    Check.BOUNDS,
                    f"{name} bound of {stack.names[differs]} {expected[differs]:.6g} {stack.units[differs]}",
                    f"{found[differs]:.6g}",
                    "use the action spec that the policy was trained with",
                )


def _statistics(policy: ActionContract, stack: ActionContract) -> Iterator[Finding]:
    found, expected = policy.statistics, stack.statistics
    if found is None:
        yield Finding(
            Check.STATISTICS_PRESENT,
            "normalization statistics",
            "none",
            "add dataset_statistics.json of the training data; without it no action may be un-normalized",
        )
        return
    unusable = ~(np.isfinite(found.low) & np.isfinite(found.high))
    if found.scaling is not Scaling.MEAN_STD:
        unusable |= found.low > found.high
    if unusable.any():
        index = int(np.argmax(unusable))
        yield Finding(
            Check.STATISTICS_FINITE,
            f"finite statistics of {policy.names[index]} with low <= high",
            f"low {found.low[index]}, high {found.high[index]}",
            "compute the statistics again from the training data",
        )
        return
    if expected is None or policy.dims != stack.dims:
        return
    if found.scaling is not expected.scaling:
        yield Finding(
            Check.STATISTICS_SCALING,
            f"{expected.scaling.value} statistics",
            found.scaling.value,
            f"un-normalize with the {found.scaling.value} values, or compute {expected.scaling.value} ones",
        )
        return
    if found.mask != expected.mask:
        names = [name for name, a, b in zip(stack.names, found.mask, expected.mask, strict=True) if a != b]
        yield Finding(
            Check.STATISTICS_MASK,
            f"{', '.join(names)} {'normalized' if expected.mask[stack.names.index(names[0])] else 'passed through'}",
            "the opposite",
            "take the mask from the training data's statistics",
        )
    if policy.units == stack.units:
        for name, ours, theirs in (("low", found.low, expected.low), ("high", found.high, expected.high)):
            differs = _first_difference(ours, theirs, stack)
            if differs is not None:
                source = f" of {found.source!r}" if found.source else ""
                yield Finding(
                    Check.STATISTICS_VALUES,
                    f"{name} of {stack.names[differs]} {theirs[differs]:.6g} {stack.units[differs]}",
                    f"{ours[differs]:.6g}{source}",
                    "use the statistics of this robot's data (the right unnorm_key)",
                )
                return


def _first_difference(found: FloatArray, expected: FloatArray, stack: ActionContract) -> int | None:
    span = np.maximum(np.abs(stack.upper - stack.lower), 1e-9)
    differs = np.abs(found - expected) > _RELATIVE * span
    return int(np.argmax(differs)) if differs.any() else None


def _rotations(policy: ActionContract, stack: ActionContract) -> Iterator[Finding]:
    if policy.rotation is not stack.rotation and policy.space is stack.space:
        yield Finding(
            Check.ROTATION,
            f"rotations as {stack.rotation.value}",
            policy.rotation.value,
            f"convert the rotations to {stack.rotation.value}; small angles look right and large ones are not",
        )
    if policy.quaternions is not stack.quaternions:
        yield Finding(
            Check.QUATERNION_ORDER,
            stack.quaternions.value,
            policy.quaternions.value,
            "reorder the quaternions of the state that the policy is given",
        )


def _gripper(policy: ActionContract, stack: ActionContract) -> Iterator[Finding]:
    found, expected = policy.gripper, stack.gripper
    if (found.open > found.closed) != (expected.open > expected.closed):
        yield Finding(
            Check.GRIPPER_POLARITY,
            f"{expected.open:g} opens and {expected.closed:g} closes",
            f"{found.open:g} opens and {found.closed:g} closes",
            "invert the gripper dimension",
        )
    elif found != expected:
        yield Finding(
            Check.GRIPPER_RANGE,
            f"closed {expected.closed:g}, open {expected.open:g}",
            f"closed {found.closed:g}, open {found.open:g}",
            "scale the gripper dimension",
        )


def _timing(policy: ActionContract, stack: ActionContract) -> Iterator[Finding]:
    if policy.rate_hz != stack.rate_hz:
        yield Finding(
            Check.CONTROL_RATE,
            f"{stack.rate_hz} rows a second",
            f"{policy.rate_hz}",
            f"the arm would move {stack.rate_hz / max(1, policy.rate_hz):.2g} times as fast as trained: "
            "declare the policy's rate",
        )
    if policy.horizon != stack.horizon:
        yield Finding(
            Check.CHUNK_LENGTH,
            f"chunks of {stack.horizon} rows",
            f"{policy.horizon}",
            "declare the policy's horizon in the action spec",
        )
    if policy.tokenizer_id != stack.tokenizer_id:
        yield Finding(
            Check.TOKENIZER,
            repr(stack.tokenizer_id),
            repr(policy.tokenizer_id),
            "decode with the policy's tokenizer",
        )


# ------------------------------------------------------------------------------------ pictures and words


def _pictures(policy: ActionContract, stack: ActionContract) -> Iterator[Finding]:
    for camera, found in policy.pictures.items():
        expected = stack.pictures.get(camera)
        if expected is None:
            yield Finding(
                Check.CAMERA_NAMES,
                f"a camera {camera!r}, which the policy needs",
                f"cameras {', '.join(stack.pictures) or 'none'}",
                "rename the stack's cameras, or map them",
            )
            continue
        if (found.height, found.width) != (expected.height, expected.width):
            yield Finding(
                Check.IMAGE_SIZE,
                f"{camera} at {expected.height} x {expected.width}, which the stack gives",
                f"{found.height} x {found.width}",
                "set the camera's size to the policy's",
            )
        if found.color is not expected.color:
            yield Finding(
                Check.COLOR_ORDER,
                f"{camera} in {expected.color.value}, which the stack gives",
                found.color.value,
                "reverse the channels",
            )
        if found.turn is not expected.turn:
            yield Finding(
                Check.IMAGE_TURN,
                f"{camera} turned: {expected.turn.value}",
                found.turn.value,
                "turn the picture before the policy sees it",
            )


def _language(policy: ActionContract, instruction: str) -> Iterator[Finding]:
    if policy.prompt.count("{instruction}") != 1:
        yield Finding(
            Check.PROMPT,
            "a prompt template with {instruction} in it once",
            repr(policy.prompt),
            "write the template that it was trained with",
        )
    elif instruction and any(
        part.strip() and part.strip() in instruction for part in policy.prompt.split("{instruction}")
    ):
        yield Finding(
            Check.PROMPT,
            "the bare instruction: the policy adds its own prompt",
            repr(instruction),
            "leave the template to the policy",
        )
