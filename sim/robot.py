"""A simulated arm on MuJoCo, in lock-step: ``write`` advances virtual time by exactly one control period.

Order of computation. ``mj_step`` leaves positions derived from the joint angles (site poses, contacts) one step behind
the joint angles themselves. Here every physics step runs its second half (forces, integration) first and then the
first half of the next one (kinematics, contacts), at the same cost; so between ticks all that depends on position
and velocity belongs to the current state. Forces (wrench, joint effort) are those of the last physics step, as a
sampling sensor would report them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import mujoco
import numpy as np

from controllers.names import nearest_name_hint
from controllers.robot import VELOCITY_GAIN_S, RobotDescription
from controllers.types import NANOSECONDS, CommandMode, FloatArray, JointCommand, Pose, RobotState

_INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_WRENCH_SENSORS = ("wrist_force", "wrist_torque")

Initialize = Callable[[mujoco.MjModel, mujoco.MjData], None]


class PhysicsError(RuntimeError):
    """The simulation diverged."""


def apply_actuator_mode(
    spec: mujoco.MjSpec, description: RobotDescription, mode: CommandMode, velocity_gain: float = VELOCITY_GAIN_S
) -> None:
    """Make the arm's actuators take commands of ``mode``; call it before compiling.

    * position: the servo gains of the MJCF stay; the arm's weight is compensated, as in a real arm's drives.
    * velocity: a velocity servo, ``torque = k (command - velocity)``; the weight is compensated.
    * torque: the command is the joint torque; nothing is compensated.

    Args:
        spec: Scene that holds the arm.
        description: The arm.
        mode: What the actuators shall take.
        velocity_gain: Gain of the velocity servo as a fraction of the MJCF's position gain, s.
    """
    limits = description.limits
    for index, joint in enumerate(description.joint_names):
        actuator = spec.actuator(description.actuator_name(joint))
        if mode is CommandMode.VELOCITY:
            gain = velocity_gain * abs(float(actuator.gainprm[0]))
            actuator.gainprm[0] = gain
            actuator.biasprm[:3] = [0.0, 0.0, -gain]
            actuator.ctrlrange[:] = [-limits.velocity[index], limits.velocity[index]]
        elif mode is CommandMode.TORQUE:
            actuator.gainprm[0] = 1.0
            actuator.biastype = mujoco.mjtBias.mjBIAS_NONE
            actuator.biasprm[:3] = [0.0, 0.0, 0.0]
            actuator.ctrlrange[:] = [-limits.torque[index], limits.torque[index]]
    compensation = 0.0 if mode is CommandMode.TORQUE else 1.0
    root = spec.joint(description.joint_names[0]).parent
    for body in (root, *root.find_all("body")):
        body.gravcomp = compensation


class SimRobot:
    """Implements :class:`controllers.protocols.Robot` on a MuJoCo model that contains the described arm.

    Attributes:
        model: The model.
        data: Its state; tasks and experts read it, only this class advances it.
        description: The arm.
        mode: The command mode that the model's actuators take.
        control_rate_hz: Ticks per second.
    """

    def __init__(self, model: mujoco.MjModel, description: RobotDescription, control_rate_hz: int = 200) -> None:
        """Bind to the model's parts and stand at home.

        Raises:
            ValueError: The control period is no whole multiple of the physics timestep, or a part is missing.
        """
        self.model = model
        self.data = mujoco.MjData(model)
        self.description = description
        self.control_rate_hz = control_rate_hz
        self.substeps = _substeps(model, control_rate_hz)
        self._period_ns = NANOSECONDS // control_rate_hz
        self._bind(model, self.data, description)
        self.mode = _actuator_mode(model, self._actuators)
        self._integration = np.empty(mujoco.mj_stateSize(model, _INTEGRATION))
        self._tick = 0
        self._last_time = 0.0
        self.reset()

    def _bind(self, model: mujoco.MjModel, data: mujoco.MjData, description: RobotDescription) -> None:
        n = description.n
        joints = [_find(model, mujoco.mjtObj.mjOBJ_JOINT, name) for name in description.joint_names]
        actuators = [
            _find(model, mujoco.mjtObj.mjOBJ_ACTUATOR, description.actuator_name(name))
            for name in description.joint_names
        ]
        self._actuators = actuators
        qpos = _span("joint positions", [int(model.jnt_qposadr[j]) for j in joints])
        dofs = _span("joint velocities", [int(model.jnt_dofadr[j]) for j in joints])
        arm = _span("actuators", actuators)
        self._gripper_actuator = _find(model, mujoco.mjtObj.mjOBJ_ACTUATOR, description.gripper.actuator)
        self._gripper_joints = [_find(model, mujoco.mjtObj.mjOBJ_JOINT, j) for j in description.gripper.joints]
        site = _find(model, mujoco.mjtObj.mjOBJ_SITE, description.end_effector_site)
        # Views into MuJoCo's own memory, valid as long as ``data`` lives.
        self._qpos, self._qvel = data.qpos[qpos], data.qvel[dofs]
        self._effort, self._arm_ctrl = data.actuator_force[arm], data.ctrl[arm]
        self._bias = data.qfrc_bias[dofs]
        self._site_position = data.site_xpos[site]
        self._site_body_quaternion = data.xquat[int(model.site_bodyid[site])]
        self._site_quaternion = model.site_quat[site].copy()
        self._opening = data.actuator_length[self._gripper_actuator : self._gripper_actuator + 1]
        self._gripper_ctrl = data.ctrl[self._gripper_actuator : self._gripper_actuator + 1]
        starts = [int(model.sensor_adr[_find(model, mujoco.mjtObj.mjOBJ_SENSOR, name)]) for name in _WRENCH_SENSORS]
        if starts[1] != starts[0] + 3:
            raise ValueError(f"expected the sensors {_WRENCH_SENSORS} side by side, found them at {starts}")
        self._wrench = data.sensordata[starts[0] : starts[0] + 6]
        self._shape = (n,)

    # ------------------------------------------------------------------------------------------ Robot

    @property
    def tick(self) -> int:
        """Control periods since the reset."""
        return self._tick

    @property
    def now_ns(self) -> int:
        """Virtual time: whole control periods since the reset."""
        return self._tick * self._period_ns

    def read(self) -> RobotState:
        """The sensed state, exactly as the physics has it.

        The wrench is what the environment exerts on the hand, in the frame of the wrist sensor: the reaction that the
        sensor's site transmits to the arm. Weight and inertia of the hand and of what it holds are in it; nothing is
        subtracted. Pressing down on the table gives a force that points up.

        Joint effort is the actuator torque, without the compensation of weight in position and velocity mode.
        """
        quaternion = np.empty(4)
        mujoco.mju_mulQuat(quaternion, self._site_body_quaternion, self._site_quaternion)
        position = self._site_position.copy()
        quaternion.setflags(write=False)
        position.setflags(write=False)
        joints, rates, effort = self._qpos.copy(), self._qvel.copy(), self._effort.copy()
        joints.setflags(write=False)
        rates.setflags(write=False)
        effort.setflags(write=False)
        # MuJoCo reports the force of the parent on the child; its negative is what the environment does to the hand.
        wrench = -self._wrench
        wrench.setflags(write=False)
        return RobotState(
            joints,
            rates,
            effort,
            Pose(position, quaternion),
            wrench,
            float(self._opening[0]),
            self._tick * self._period_ns,
        )

    def write(self, command: JointCommand) -> None:
        """Apply ``command`` for one control period of virtual time.

        Raises:
            ValueError: Another mode than the actuators', wrong shape, or a value that is not finite.
            PhysicsError: The simulation diverged.
        """
        values = command.values
        if command.mode is not self.mode:
            raise ValueError(
                f"expected {self.mode.value} commands (the model's actuators), found {command.mode.value}; "
                "build the scene with apply_actuator_mode for this mode"
            )
        if values.shape != self._shape:
            raise ValueError(f"expected command values of shape {self._shape}, found {values.shape}")
        if not math.isfinite(float(np.dot(values, values)) + command.gripper_opening):
            raise ValueError(f"expected a finite command, found {values} and gripper {command.gripper_opening}")
        self._arm_ctrl[:] = values
        self._gripper_ctrl[0] = command.gripper_opening
        model, data = self.model, self.data
        for _ in range(self.substeps):
            mujoco.mj_step2(model, data)
            mujoco.mj_step1(model, data)
        self._tick += 1
        # MuJoCo answers a divergence by resetting everything, time included.
        if data.time <= self._last_time:
            raise PhysicsError(f"the simulation diverged at tick {self._tick}: MuJoCo reset it; see MUJOCO_LOG.TXT")
        self._last_time = data.time

    def physics_digest(self) -> bytes:
        """BLAKE2b, 16 bytes, of all that determines the future of the simulation (mjSTATE_INTEGRATION)."""
        mujoco.mj_getState(self.model, self.data, self._integration, _INTEGRATION)
        return hashlib.blake2b(self._integration.data, digest_size=16).digest()

    # ------------------------------------------------------------------------------- state, resetting

    def get_state(self) -> FloatArray:
        """Everything needed to go on from here: mjSTATE_INTEGRATION, then the force readings, then the tick.

        The force readings belong to the physics step before, so they cannot be recomputed from the state.
        """
        mujoco.mj_getState(self.model, self.data, self._integration, _INTEGRATION)
        data = self.data
        return np.concatenate([self._integration, data.sensordata, data.actuator_force, [float(self._tick)]])

    def set_state(self, state: FloatArray) -> None:
        """Go on from a state of :meth:`get_state`; reads and steps are then the same bit for bit.

        Raises:
            ValueError: The vector belongs to another model.
        """
        data, model = self.data, self.model
        size, sensors = self._integration.size, data.sensordata.size
        expected = size + sensors + model.nu + 1
        if state.shape != (expected,):
            raise ValueError(f"expected a state vector of shape ({expected},) for this model, found {state.shape}")
        mujoco.mj_setState(model, data, np.ascontiguousarray(state[:size]), _INTEGRATION)
        mujoco.mj_step1(model, data)
        data.sensordata[:] = state[size : size + sensors]
        data.actuator_force[:] = state[size + sensors : -1]
        self._tick = int(state[-1])
        self._last_time = data.time

    def reset(self, initialize: Initialize | None = None, settle_s: float = 0.0) -> None:
        """Stand at home with the gripper open, place the objects, and start the virtual clock at zero.

        Args:
            initialize: Places the objects (``TaskInstance.initialize``).
            settle_s: Lets the objects come to rest for this long, with the arm held in place.
        """
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        self._qpos[:] = self.description.home
        self._open_gripper()
        if initialize is not None:
            initialize(model, data)
        self._gripper_ctrl[0] = self.description.gripper.open
        held = [*self._held_addresses()]
        positions = data.qpos[[q for q, _ in held]].copy()
        for _ in range(round(settle_s / model.opt.timestep)):
            mujoco.mj_step(model, data)
            data.qpos[[q for q, _ in held]] = positions
            data.qvel[[v for _, v in held]] = 0.0
        data.time = 0.0
        self._tick, self._last_time = 0, 0.0
        self._hold_in_place()
        mujoco.mj_forward(model, data)

    def _held_addresses(self) -> list[tuple[int, int]]:
        model = self.model
        arm = [_find(model, mujoco.mjtObj.mjOBJ_JOINT, name) for name in self.description.joint_names]
        return [(int(model.jnt_qposadr[j]), int(model.jnt_dofadr[j])) for j in (*arm, *self._gripper_joints)]

    def _hold_in_place(self) -> None:
        """Set the arm's controls to stay where it is."""
        if self.mode is CommandMode.POSITION:
            self._arm_ctrl[:] = self._qpos
        elif self.mode is CommandMode.VELOCITY:
            self._arm_ctrl[:] = 0.0
        else:
            mujoco.mj_forward(self.model, self.data)
            self._arm_ctrl[:] = self._bias

    def _open_gripper(self) -> None:
        model, data, wanted = self.model, self.data, self.description.gripper.open
        addresses = [int(model.jnt_qposadr[j]) for j in self._gripper_joints]
        errors: list[float] = []
        for end in (0, 1, 1):
            if end == 1 and len(errors) == 2:  # third pass: settle on the better end of the joints' ranges
                end = int(errors[1] <= errors[0])
            data.qpos[addresses] = model.jnt_range[self._gripper_joints, end]
            mujoco.mj_fwdPosition(model, data)
            errors.append(abs(float(self._opening[0]) - wanted))
        if errors[-1] > 1e-3:
            raise ValueError(
                f"expected the gripper to open to {wanted} m at an end of its joints' ranges, "
                f"found {float(self._opening[0])} m; check gripper.open_m in the robot description"
            )


def _substeps(model: mujoco.MjModel, control_rate_hz: int) -> int:
    if control_rate_hz <= 0 or NANOSECONDS % control_rate_hz:
        raise ValueError(f"expected a control rate that divides 1e9 ns, found {control_rate_hz} Hz")
    timestep = float(model.opt.timestep)
    ratio = 1.0 / (control_rate_hz * timestep)
    substeps = round(ratio)
    if substeps < 1 or abs(ratio - substeps) > 1e-9 * ratio:
        raise ValueError(
            f"expected a control period that is a whole multiple of the physics timestep {timestep} s, "
            f"found {1.0 / control_rate_hz:g} s ({control_rate_hz} Hz), {ratio:g} timesteps"
        )
    return substeps


def _actuator_mode(model: mujoco.MjModel, actuators: list[int]) -> CommandMode:
    """Recognize the mode from gain and bias, so that a model rebuilt from its XML needs no note about it."""
    modes = set()
    for actuator in actuators:
        position_gain, velocity_gain = model.actuator_biasprm[actuator, 1], model.actuator_biasprm[actuator, 2]
        if model.actuator_biastype[actuator] == mujoco.mjtBias.mjBIAS_NONE:
            modes.add(CommandMode.TORQUE)
        elif position_gain == 0.0 and velocity_gain != 0.0:
            modes.add(CommandMode.VELOCITY)
        else:
            modes.add(CommandMode.POSITION)
    if len(modes) != 1:
        raise ValueError(f"expected all arm actuators in one mode, found {sorted(m.value for m in modes)}")
    return modes.pop()


def _span(what: str, addresses: list[int]) -> slice:
    if addresses != list(range(addresses[0], addresses[0] + len(addresses))):
        raise ValueError(f"expected the arm's {what} side by side in the model, found them at {addresses}")
    return slice(addresses[0], addresses[0] + len(addresses))


def _find(model: mujoco.MjModel, kind: mujoco.mjtObj, name: str) -> int:
    identifier = mujoco.mj_name2id(model, kind, name)
    if identifier < 0:
        counts = {
            mujoco.mjtObj.mjOBJ_JOINT: model.njnt,
            mujoco.mjtObj.mjOBJ_ACTUATOR: model.nu,
            mujoco.mjtObj.mjOBJ_SITE: model.nsite,
            mujoco.mjtObj.mjOBJ_SENSOR: model.nsensor,
        }
        names = [str(mujoco.mj_id2name(model, kind, i)) for i in range(counts[kind])]
        what = kind.name.removeprefix("mjOBJ_").lower()
        raise ValueError(f"expected a {what} {name!r} in the model{nearest_name_hint(name, names)}; found {names}")
    return identifier
