"""The controllers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from controllers.differential_ik import DifferentialIK
from controllers.joint_impedance import JointImpedance
from controllers.kinematics import ArmModel
from controllers.names import nearest_name_hint
from controllers.operational_space import OperationalSpace
from controllers.protocols import Controller

CONTROLLERS: Mapping[str, Callable[[ArmModel], Controller]] = MappingProxyType(
    {
        "differential_ik": DifferentialIK,
        "operational_space": OperationalSpace,
        "joint_impedance": JointImpedance,
    }
)


class UnknownControllerError(ValueError):
    """No controller has that name."""


def make_controller(name: str, arm: ArmModel) -> Controller:
    """Build a controller with its default options.

    Raises:
        UnknownControllerError: Unknown name; the message lists the valid ones.
    """
    if name not in CONTROLLERS:
        hint = nearest_name_hint(name, tuple(CONTROLLERS))
        raise UnknownControllerError(f"unknown controller {name!r}: expected one of {', '.join(CONTROLLERS)}{hint}")
    return CONTROLLERS[name](arm)
