"""MuJoCo as the robot: joint states, wrench, pictures and the clock out, commands in, in real time.

It behaves as a robot does: it takes commands by topic, checks them by name, and holds when none has come for a while.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np
from geometry_msgs.msg import WrenchStamped
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, String

from controllers.robot import load_robot
from controllers.types import CommandMode, FloatArray, JointCommand, frozen_array
from ros_nodes import topics
from ros_nodes.conversion import (
    compressed_image_message,
    image_message,
    joint_state_message,
    time_message,
    wrench_message,
)
from ros_nodes.errors import MessageError
from ros_nodes.gate import Gate
from ros_nodes.hardware import Incoming
from ros_nodes.node import Diagnosis, GraphNode, Level, run
from ros_nodes.options import current, declare, option
from ros_nodes.stack_options import StackParameters
from ros_nodes.statistics import Statistics
from sim.assembly import SimCell, assemble_sim
from sim.rendering import CameraRenderer, close_shared_context
from sim.rollout import SUCCESS_HOLD_S

_SNAPSHOT = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_CAMERA_PRIORITY = 1
_SWITCH_S = 0.0005  # how long the camera thread may keep the interpreter from the physics; Python's 5 ms is a period


@dataclass(frozen=True)
class SimOptions(StackParameters):
    """Parameters of the simulated robot."""

    task: str = option("pick_up", "task of the tabletop suite; read at configure", live=True)
    seed: int = option(1_000_000, "seed of scene and arrangement; read at configure", low=0, high=2**53, live=True)
    camera_rate_hz: float = option(30.0, "pictures per second of each camera; 0: none", low=0.0, high=200.0)
    compressed: bool = option(False, "publish compressed pictures (png, lossless) instead of raw ones")
    clock_rate_hz: float = option(50.0, "samples per second on /clock", low=1.0, high=1000.0)
    command_timeout_ms: float = option(
        50.0, "without a command for this long, the robot holds by itself", low=5.0, high=1000.0
    )


class SimCameras:
    """Renders snapshots of the physics in a thread and publishes them from there; the newest wins."""

    def __init__(
        self,
        model: mujoco.MjModel,
        sizes: dict[str, tuple[int, int]],
        out: dict[str, tuple[Publisher, Any]],
        *,
        realtime: bool,
    ) -> None:
        """Bind to a model, and to a publisher and a message maker for each camera; :meth:`start` makes the thread.

        Args:
            model: The physics.
            sizes: (height, width) of each camera.
            out: Where each camera's pictures go.
            realtime: The physics run with real-time priority, so this thread, which shares the interpreter's lock with
                them, needs the lowest of these: preempted while it holds the lock, it would hold up the physics.
        """
        self._model, self._sizes, self._out, self._realtime = model, sizes, out, realtime
        self._jobs: queue.Queue[tuple[FloatArray, int] | None] = queue.Queue(maxsize=1)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cameras", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Start, and wait until the renderer is warm.

        Raises:
            RuntimeError: No OpenGL context.
        """
        self._thread.start()
        if not self._ready.wait(60.0):
            raise RuntimeError("the camera thread got no GL context within 60 s; `vla doctor` checks rendering")

    def submit(self, physics: FloatArray, stamp: int) -> None:
        """Ask for pictures; returns at once, and drops them if the last ones are not finished."""
        try:
            self._jobs.put_nowait((physics, stamp))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Finish and end."""
        self._jobs.put(None)
        self._thread.join(10.0)

    def _work(self) -> None:
        data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, data)
        with CameraRenderer(self._model, self._sizes) as renderer:
            renderer.render(data)
            if self._realtime:  # after the driver has started its own threads, which need no priority
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_CAMERA_PRIORITY))
            self._ready.set()
            while (job := self._jobs.get()) is not None:
                physics, stamp = job
                mujoco.mj_setState(self._model, data, physics, _SNAPSHOT)
                mujoco.mj_forward(self._model, data)
                for camera, image in renderer.render(data).items():
                    publisher, message = self._out[camera]
                    publisher.publish(message(image, stamp, camera))
        close_shared_context()


class RobotSimNode(GraphNode):
    """Steps the physics by one control period at each deadline of the wall clock."""

    is_clock_source = True

    def __init__(self) -> None:
        """Declare the parameters."""
        super().__init__("robot_sim_node")
        declare(self, SimOptions)
        self._cell: SimCell | None = None
        self._cameras: SimCameras | None = None

    def setup(self) -> None:
        """Build the scene."""
        options = current(self, SimOptions)  # task and seed may have changed
        self._options = options
        config = options.stack()
        self._period_ns = 1_000_000_000 // options.rate_hz
        self._mode = config.command_mode
        self._cell = cell = assemble_sim(replace(config, cameras={}), options.task, options.seed)
        description = load_robot(options.robot)
        self._frame = description.wrench_site
        self._names = options.names(description)
        self._states = self.publish_on(topics.JOINT_STATES, JointState)
        self._wrench = self.publish_on(topics.WRENCH, WrenchStamped)
        self._clock_out = self.publish_on(topics.CLOCK, Clock)
        self._success = self.publish_on(topics.TASK_SUCCESS, Bool)
        self._words = self.publish_on(topics.TASK_INSTRUCTION, String)
        self._gate = Gate(topics.SAFE_COMMAND.name, options.rate_hz)
        self._incoming = Incoming(options, self._names, self._mode, cell.robot.read().gripper_opening)
        for topic, kind, read in self._incoming.topics:
            self.subscribe_to(topics.SAFE_COMMAND, kind, self._reader(read), topic)
        if options.camera_rate_hz > 0:
            outputs, realtime = self._camera_outputs(config.cameras), self.realtime_priority > 0
            self._cameras = SimCameras(cell.robot.model, dict(config.cameras), outputs, realtime=realtime)
            self._cameras.start()
        self._words.publish(String(data=cell.instruction))
        self._forget()

    def _camera_outputs(self, cameras: Any) -> dict[str, tuple[Publisher, Any]]:
        if not self._options.compressed:
            topic = topics.CAMERA
            return {name: (self.publish_on(topic, Image, topic.named(name)), image_message) for name in cameras}
        topic = topics.CAMERA_COMPRESSED
        return {
            name: (self.publish_on(topic, CompressedImage, topic.named(name)), compressed_image_message)
            for name in cameras
        }

    def start(self) -> None:
        """Begin to run in real time."""
        self._forget()

    def teardown(self) -> None:
        """Free scene and renderer."""
        if self._cameras is not None:
            self._cameras.close()
            self._cameras = None
        if self._cell is not None:
            self._cell.close()
            self._cell = None

    def _forget(self) -> None:
        assert self._cell is not None
        state = self._cell.robot.read()
        self._deadline = time.monotonic_ns()
        self._command: JointCommand | None = None
        self._commanded_ns = 0
        self._still = state.joint_position
        self._holding = False
        self._commands = self._missed = self._holds = 0
        self._next_picture = self._next_clock = self._next_success = 0
        self._achieved_since = -1
        self._lateness = Statistics()

    # ------------------------------------------------------------------------------------------------ commands

    def _reader(self, read: Any) -> Any:
        def on_message(message: Any) -> None:
            now = self.clock.now_ns()
            if not self.active or not self._gate.arrived(now):
                return
            try:
                command = read(message, now)
                if command is None:
                    return
                if not np.isfinite(command.values).all() or not np.isfinite(command.gripper_opening):
                    raise MessageError("NaN or infinity")
                age_ms = (now - command.stamp_ns) * 1e-6
                if age_ms > self._options.command_timeout_ms:
                    raise MessageError(f"stale stamp, {age_ms:.0f} ms old")
            except MessageError as error:
                self._gate.refuse(now, f"{topics.SAFE_COMMAND.name}: {error}")
                return
            self._command, self._commanded_ns = command, time.monotonic_ns()
            self._commands += 1

        return on_message

    def _applied(self) -> JointCommand:
        """The newest command, or what holds the arm if there is none or it is too old."""
        assert self._cell is not None
        robot, command = self._cell.robot, self._command
        timeout = self._options.command_timeout_ms * 1e6
        now = time.monotonic_ns()
        fresh = (
            command is not None and now - self._commanded_ns <= timeout and not self._gate.closed(self.clock.at(now))
        )
        if fresh is self._holding:
            self._holding = not fresh
            self.diagnose_soon()
        if fresh and command is not None:
            self._still = command.values if self._mode is CommandMode.POSITION else robot.read().joint_position
            return command
        self._holds += 1
        opening = command.gripper_opening if command is not None else robot.description.gripper.open
        if self._mode is CommandMode.POSITION:
            return JointCommand(self._mode, self._still, opening, 0)
        if self._mode is CommandMode.VELOCITY:
            return JointCommand(self._mode, frozen_array(np.zeros_like(self._still)), opening, 0)
        return JointCommand(self._mode, self._braking_torque(), opening, 0)

    def _braking_torque(self) -> FloatArray:
        """Weight and damping: what a torque-controlled arm's drives do by themselves when its commands end."""
        assert self._cell is not None
        robot = self._cell.robot
        state = robot.read()
        limit = robot.description.limits.torque
        bias = robot.data.qfrc_bias[: state.joint_position.size]
        return frozen_array(np.clip(bias - 0.5 * limit * state.joint_velocity, -limit, limit))

    # ------------------------------------------------------------------------------------------------ the period

    def wake_ns(self) -> int | None:
        """The next deadline."""
        return self._deadline if self.active else None

    def work(self) -> None:
        """One control period of physics, and what a robot's drivers publish after it."""
        started = time.monotonic_ns()
        cell, options = self._cell, self._options
        assert cell is not None
        self._lateness.add(started - self._deadline)
        cell.robot.write(self._applied())
        stamp = self.clock.at(time.monotonic_ns())
        state = replace(cell.robot.read(), stamp_ns=stamp)
        if options.wrench:
            self._wrench.publish(wrench_message(state.wrench, stamp, self._frame))
        self._states.publish(joint_state_message(state, self._names))
        if started >= self._next_clock:
            self._next_clock = started + round(1e9 / options.clock_rate_hz)
            self._clock_out.publish(Clock(clock=time_message(stamp)))
        if self._cameras is not None and started >= self._next_picture:
            self._next_picture = started + round(1e9 / options.camera_rate_hz) - self._period_ns // 2
            self._cameras.submit(self._snapshot(), stamp)
        self._watch_goal(started)
        self._deadline += self._period_ns
        behind = time.monotonic_ns() - self._deadline
        if behind > 0:
            skipped = behind // self._period_ns
            self._missed += skipped
            self._deadline += skipped * self._period_ns

    def _snapshot(self) -> FloatArray:
        assert self._cell is not None
        robot = self._cell.robot
        physics = np.empty(mujoco.mj_stateSize(robot.model, _SNAPSHOT))
        mujoco.mj_getState(robot.model, robot.data, physics, _SNAPSHOT)
        return physics

    def _watch_goal(self, started: int) -> None:
        cell = self._cell
        assert cell is not None
        achieved = cell.instance.success(cell.robot.model, cell.robot.data)
        if not achieved:
            self._achieved_since = -1
        elif self._achieved_since < 0:
            self._achieved_since = cell.robot.tick
        if started >= self._next_success:
            self._next_success = started + 100_000_000
            held = cell.robot.tick - self._achieved_since
            lasting = self._achieved_since >= 0 and held >= SUCCESS_HOLD_S * self._options.rate_hz
            self._success.publish(Bool(data=bool(lasting)))

    def diagnose(self) -> Diagnosis:
        """Whether it is commanded, and how late it is."""
        if not self.active:
            return Diagnosis(Level.STALE, "inactive", {})
        silent = (time.monotonic_ns() - self._commanded_ns) * 1e-6 if self._command is not None else float("inf")
        holding = self._holding
        words = f"no {topics.SAFE_COMMAND.name} for {silent:.0f} ms: holding" if holding else "following commands"
        fault = self._gate.fault if self._gate.closed(self.clock.now_ns()) else ""
        values = {
            "task": self._options.task,
            "commands": str(self._commands),
            "periods_held": str(self._holds),
            "periods_missed": str(self._missed),
            "lateness_ms": self._lateness.words(1e-6),
            "pictures_dropped": str(self._cameras.dropped if self._cameras is not None else 0),
        }
        level = Level.WARN if holding or fault else Level.OK
        return Diagnosis(level, f"{words}; {fault}" if fault else words, values)


def main() -> None:
    """Run the node."""
    sys.setswitchinterval(_SWITCH_S)
    sys.exit(run(RobotSimNode))


if __name__ == "__main__":
    main()
