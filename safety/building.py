"""From a robot and a profile to a filter that is known to suit both, with all its code compiled."""

from __future__ import annotations

import numpy as np

from controllers.names import nearest_name_hint
from controllers.robot import RobotDescription
from controllers.types import (
    NANOSECONDS,
    CommandMode,
    JointCommand,
    OperatorEvent,
    Pose,
    RobotState,
    frozen_array,
)
from safety.filter import PathConsistentFilter
from safety.profile import SafetyProfile, SafetyProfileError
from safety.watched import CARRIED_OBJECT


def build_filter(description: RobotDescription, profile: SafetyProfile) -> PathConsistentFilter:
    """Build the filter of one robot in one cell.

    Args:
        description: The robot.
        profile: What to enforce.

    Raises:
        SafetyProfileError: The profile is meant for another robot, lacks a box for a watched point, has one for a point
            that is not watched, or leaves the robot's home posture outside.
    """
    if profile.robot != description.name:
        raise SafetyProfileError(
            f"profile {profile.name!r}: expected a profile for robot {description.name!r}, found {profile.robot!r}"
        )
    watched = (description.end_effector_site, *description.safety_points)
    if profile.carried_object is not None:
        watched = (*watched, CARRIED_OBJECT)
    for box in profile.workspace:
        if box.point not in watched:
            hint = nearest_name_hint(box.point, watched)
            raise SafetyProfileError(
                f"profile {profile.name!r}: workspace: {description.name} has no watched point {box.point!r}{hint}; "
                f"watched are {', '.join(dict.fromkeys(watched))}"
            )
    built = PathConsistentFilter(description, profile)
    _check_home(built)
    _rehearse(built)
    return built


def _check_home(built: PathConsistentFilter) -> None:
    """Refuse a profile that leaves the home posture outside."""
    home = built.description.home
    motion = built.rest(home)
    for limit in built.limits:
        margin = limit.judge(motion).margin
        limit.inequalities(motion)
        if margin < 0.0:
            raise SafetyProfileError(
                f"profile {built.profile.name!r}: expected the home posture of {built.description.name} inside every "
                f"limit, found it outside {limit.name} by {-margin:.3g} {limit.unit}"
            )


def _rehearse(built: PathConsistentFilter) -> None:
    """Run a few ticks on paper, so that all compiled code is loaded before the first real one.

    In every mode, for the controller decides on that: a command that stays, one that moves, one that may not pass, and
    a stop, in a memory that is thrown away.
    """
    for mode in CommandMode:
        _rehearse_in(built, mode)


def _rehearse_in(built: PathConsistentFilter, mode: CommandMode) -> None:
    home, n = frozen_array(built.description.home), built.description.n
    still = frozen_array(np.zeros(n))
    base = home if mode is CommandMode.POSITION else still
    memory, now_ns, dt = built.initial(_standing(built.description, 0)), 0, 0.005
    for step, events in ((0.0, ()), (1e-5, ()), (0.5, ()), (0.0, (OperatorEvent.EMERGENCY_STOP,))):
        now_ns += round(dt * NANOSECONDS)
        state = _standing(built.description, now_ns)
        command = JointCommand(mode, frozen_array(base + step), state.gripper_opening, now_ns)
        memory, _ = built.enforce(memory, state, command, events, now_ns, dt)


def _standing(description: RobotDescription, now_ns: int) -> RobotState:
    """The sensed state of an arm at rest in its home posture."""
    still = frozen_array(np.zeros(description.n))
    return RobotState(
        joint_position=frozen_array(description.home),
        joint_velocity=still,
        joint_effort=still,
        ee_pose=Pose(frozen_array(np.zeros(3)), frozen_array([1.0, 0.0, 0.0, 0.0])),
        wrench=frozen_array(np.zeros(6)),
        gripper_opening=description.gripper.open,
        stamp_ns=now_ns,
    )
