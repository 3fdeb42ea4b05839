"""A simulated arm whose every physics step can be judged, and which can be set back to any earlier state."""

from __future__ import annotations

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from controllers.types import NANOSECONDS, CommandMode, FloatArray, JointCommand, Pose, RobotState, frozen_array
from safety.monitor import GroundTruthMonitor, Violation

_INTEGRATION = mujoco.mjtState.mjSTATE_INTEGRATION
_SENSORS = ("wrist_force", "wrist_torque")


class PlantDivergedError(RuntimeError):
    """MuJoCo gave up on the simulation."""


class Plant:
    """The arm in its world, in lock-step."""

    def __init__(self, model: mujoco.MjModel, description: RobotDescription, mode: CommandMode, rate_hz: int) -> None:
        """Bind to a world of :func:`sim.fuzz.world.build_world`."""
        self.model = model
        self.data = mujoco.MjData(model)
        self.mode = mode
        self.period_ns = NANOSECONDS // rate_hz
        self.tick = 0
        self._substeps = round(1.0 / (rate_hz * model.opt.timestep))
        joints = [model.joint(name).id for name in description.joint_names]
        self.qpos = [int(model.jnt_qposadr[joint]) for joint in joints]
        self.dofs = [int(model.jnt_dofadr[joint]) for joint in joints]
        self.actuators = [model.actuator(description.actuator_name(name)).id for name in description.joint_names]
        self._gripper = model.actuator(description.gripper.actuator).id
        self._range = (description.gripper.closed, description.gripper.open)
        self._fingers = [int(model.jnt_qposadr[model.joint(name).id]) for name in description.gripper.joints]
        self.site = model.site(description.end_effector_site).id
        self._sensors = [int(model.sensor_adr[model.sensor(name).id]) for name in _SENSORS]
        self._size = mujoco.mj_stateSize(model, _INTEGRATION)
        self._shape = (description.n,)
        self._touching = True

    @property
    def now_ns(self) -> int:
        """Virtual time."""
        return self.tick * self.period_ns

    def start(self, position: FloatArray) -> None:
        """Stand at rest at a joint position (n,) rad, at time zero."""
        model, data = self.model, self.data
        mujoco.mj_resetData(model, data)
        data.qpos[self.qpos] = position
        mujoco.mj_forward(model, data)
        if self.mode is CommandMode.POSITION:
            data.ctrl[self.actuators] = position
        elif self.mode is CommandMode.TORQUE:
            data.ctrl[self.actuators] = data.qfrc_bias[self.dofs]
        data.ctrl[self._gripper] = data.actuator_length[self._gripper]
        self.tick = 0
        self._touching = True
        mujoco.mj_forward(model, data)

    def touches(self, position: FloatArray, geom: str) -> bool:
        """Whether an arm at rest at ``position`` (n,) rad would touch a geom of the world."""
        self.start(position)
        index = self.model.geom(geom).id
        return bool((self.data.contact.geom == index).any())

    def sense(self) -> RobotState:
        """The true state; the wrench has the sign of :meth:`sim.robot.SimRobot.read`."""
        data = self.data
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, data.site_xmat[self.site])
        wrench = np.concatenate([data.sensordata[start : start + 3] for start in self._sensors])
        return RobotState(
            frozen_array(data.qpos[self.qpos]),
            frozen_array(data.qvel[self.dofs]),
            frozen_array(data.actuator_force[self.actuators]),
            Pose(frozen_array(data.site_xpos[self.site]), frozen_array(quaternion)),
            frozen_array(-wrench),
            float(data.actuator_length[self._gripper]),
            self.now_ns,
        )

    def apply(self, command: JointCommand) -> None:
        """Hand a command to the actuators; one that they cannot take leaves the last one standing."""
        values: object = command.values
        if not isinstance(values, np.ndarray) or values.shape != self._shape or command.mode is not self.mode:
            return
        if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            return
        # Drives take no astronomic numbers: far beyond any limit is far enough.
        self.data.ctrl[self.actuators] = np.clip(values, -1e3, 1e3)
        opening: object = command.gripper_opening
        if isinstance(opening, float) and np.isfinite(opening):
            self.data.ctrl[self._gripper] = min(max(opening, self._range[0]), self._range[1])

    def advance(self, monitor: GroundTruthMonitor) -> tuple[Violation, ...]:
        """One control period of physics; contacts are judged after each of its steps.

        Raises:
            PlantDivergedError: The simulation diverged.
        """
        model, data = self.model, self.data
        found: tuple[Violation, ...] = ()
        before = data.time
        for _ in range(self._substeps):
            mujoco.mj_step2(model, data)
            if data.ncon or self._touching:  # once more after the last contact: a lasting force is over then
                found += monitor.judge_contacts(data, self.now_ns)
            self._touching = data.ncon > 0
            mujoco.mj_step1(model, data)
        self.tick += 1
        if data.time <= before:
            raise PlantDivergedError(f"the simulation diverged at tick {self.tick}")
        return found

    def get_state(self) -> FloatArray:
        """Everything needed to go on from here."""
        state = np.empty(self._size)
        mujoco.mj_getState(self.model, self.data, state, _INTEGRATION)
        readings = (self.data.sensordata, self.data.actuator_force, [float(self.tick)])
        return np.concatenate([state, *readings])

    def set_state(self, state: FloatArray) -> None:
        """Go on from a state of :meth:`get_state`."""
        model, data, size = self.model, self.data, self._size
        mujoco.mj_setState(model, data, np.ascontiguousarray(state[:size]), _INTEGRATION)
        mujoco.mj_step1(model, data)
        data.sensordata[:] = state[size : size + model.nsensordata]
        data.actuator_force[:] = state[size + model.nsensordata : -1]
        self.tick = int(state[-1])
        self._touching = True
