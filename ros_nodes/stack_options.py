"""Parameters that say which stack runs; the control node and the recorder must be given the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

from controllers.robot import load_robot
from ros_nodes.hardware import HardwareOptions
from ros_nodes.options import option
from safety.profile import load_profile
from sim.stack import StackConfig, controller_options


@dataclass(frozen=True)
class StackParameters(HardwareOptions):
    """Which robot, controller, rates and limits."""

    robot: str = option("panda", "built-in robot, or the path of its robot.yaml")
    controller: str = option("differential_ik", "differential_ik, operational_space or joint_impedance")
    rate_hz: int = option(200, "control ticks per second, 50 to 200; a multiple of the action rate", low=10, high=1000)
    safety_profile: str = option("", "safety profile, built-in or a path; empty for ROBOT_tabletop")
    policy_timeout_ms: float = option(
        0.0, "longest silence of the policy's heartbeat, where shorter than the profile's; 0: the profile's",
        low=0.0, high=60000.0,
    )  # fmt: skip
    wrench: bool = option(True, "the robot publishes the wrench at its wrist")
    max_state_rate_hz: float = option(0.0, "more joint states per second are babble; 0: any", low=0.0, high=10000.0)

    def stack(self) -> StackConfig:
        """The stack's configuration.

        Raises:
            ValueError: A name or rate that does not fit.
        """
        robot = load_robot(self.robot)
        profile = load_profile(self.safety_profile or f"{robot.name}_tabletop")
        if self.policy_timeout_ms > 0.0:
            shorter = min(self.policy_timeout_ms, profile.timing.policy_timeout_ms)
            profile = replace(profile, timing=replace(profile.timing, policy_timeout_ms=shorter))
        config = StackConfig(
            robot=self.robot,
            controller=controller_options(self.controller),
            control_rate_hz=self.rate_hz,
            safety=profile,
        )
        # As replay will read it: plain numbers, nothing that JSON would change.
        return StackConfig.from_json(config.to_json())
