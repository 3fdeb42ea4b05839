"""One episode in real time: absolute deadlines, pictures taken in a thread, the policy in its own process.

The simulation advances by one control period at each tick, so a recorded real-time episode replays bit for bit from
its log, whatever the machine did to its timing.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mujoco
import numpy as np

from controllers.drivers import InterruptSwitch, run_realtime
from controllers.protocols import PolicyClient, TickSink
from controllers.types import ChunkArrival, FloatArray, JointCommand, Observation, Pose, RobotState
from episodes.results import EpisodeResult
from sim.assembly import SimCell, assemble_loop, assemble_sim
from sim.policies import EXPERT
from sim.rendering import CameraRenderer, close_shared_context
from sim.rollout import PolicySource, recorded_cell, success_condition
from sim.stack import StackConfig

_SNAPSHOT = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_FIFO_PRIORITY = 50


@dataclass(frozen=True, slots=True)
class Timing:
    """How well the deadlines were met.

    Attributes:
        realtime_priority: SCHED_FIFO was granted.
        late_p50_ms: Median of the start of a tick after its deadline.
        late_p99_ms: 99th percentile.
        late_max_ms: Worst.
        missed: Deadlines skipped.
    """

    realtime_priority: bool
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    missed: int


class _ClockedRobot:
    """The simulated arm with its readings stamped by the wall clock."""

    def __init__(self, cell: SimCell, clock: Callable[[], int]) -> None:
        self._robot = cell.robot
        self._clock = clock

    def read(self) -> RobotState:
        return replace(self._robot.read(), stamp_ns=self._clock())

    def write(self, command: JointCommand) -> None:
        self._robot.write(command)

    def physics_digest(self) -> bytes:
        return self._robot.physics_digest()


@dataclass(frozen=True, slots=True)
class _Shot:
    physics: FloatArray
    state: RobotState
    commanded_pose: Pose


class CameraThread:
    """Renders snapshots of the physics away from the tick; the newest request wins.

    Attributes:
        taken: Finished observations, oldest first; the tick thread pops them.
    """

    def __init__(self, model: mujoco.MjModel, cameras: dict[str, tuple[int, int]], instruction: str) -> None:
        """Bind to a model; :meth:`start` makes the thread and its GL context."""
        self._model = model
        self._cameras = cameras
        self._instruction = instruction
        self._jobs: queue.Queue[_Shot | None] = queue.Queue()
        self.taken: deque[Observation] = deque()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, name="cameras", daemon=True)

    def start(self) -> None:
        """Start, and wait until the renderer is warm."""
        self._thread.start()
        if not self._ready.wait(30.0):
            raise RuntimeError("the camera thread did not get a GL context within 30 s; `vla doctor` checks rendering")

    def submit(self, shot: _Shot) -> None:
        """Ask for the pictures of a snapshot; returns at once."""
        self._jobs.put(shot)

    def close(self) -> None:
        """Finish what was asked for, and end."""
        self._jobs.put(None)
        self._thread.join(10.0)

    def _work(self) -> None:
        data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, data)
        with CameraRenderer(self._model, self._cameras) as renderer:
            renderer.render(data)
            self._ready.set()
            while (shot := self._jobs.get()) is not None:
                mujoco.mj_setState(self._model, data, shot.physics, _SNAPSHOT)
                mujoco.mj_forward(self._model, data)
                images = renderer.render(data)
                self.taken.append(
                    Observation(images, shot.state, shot.commanded_pose, self._instruction, shot.state.stamp_ns)
                )
        close_shared_context()


class _CapturedClient:
    """Hands finished observations to the log and, where it needs pictures, to the policy."""

    def __init__(self, inner: PolicyClient, cameras: CameraThread, sink: TickSink, *, needs_pictures: bool) -> None:
        self._inner = inner
        self._cameras = cameras
        self._sink = sink
        self._needs_pictures = needs_pictures

    def request(self, observation: Observation) -> None:
        """Only for policies that need no pictures: they are asked at once."""
        if not self._needs_pictures:
            self._inner.request(observation)

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        taken = self._cameras.taken
        while taken:
            observation = taken.popleft()
            self._sink.record_observation(observation)
            if self._needs_pictures:
                self._inner.request(observation)
        return self._inner.poll(now_ns)


def run_episode_realtime(
    task_name: str,
    seed: int,
    policy: PolicySource,
    config: StackConfig,
    *,
    out_dir: Path | None = None,
    instruction: str | None = None,
    interrupt: InterruptSwitch | None = None,
) -> tuple[EpisodeResult, Timing]:
    """Run one episode against the wall clock.

    Args:
        task_name: Name in the catalog.
        seed: Seed of everything random in the episode.
        policy: Who acts; a model's client must answer asynchronously.
        config: The stack.
        out_dir: Folder for the recorded episode, None to record nothing.
        instruction: Words to use instead of the task's own.
        interrupt: Pressed by Ctrl-C.
    """
    policy.check(config)
    loop = assemble_loop(config)
    blind = replace(config, cameras={})
    with assemble_sim(blind, task_name, seed, instruction=instruction) as cell:
        cameras = CameraThread(cell.robot.model, dict(config.cameras), cell.instruction)
        cameras.start()
        started = time.monotonic_ns()

        def clock() -> int:
            return time.monotonic_ns() - started

        with recorded_cell(cell, seed, policy.identity, config, out_dir, realtime=True) as tally:
            client = _CapturedClient(
                policy.client(cell, config), cameras, tally, needs_pictures=policy.identity.name != EXPERT
            )

            def capture(state: RobotState, commanded_pose: Pose) -> None:
                cameras.submit(_Shot(_snapshot(cell), state, commanded_pose))
                client.request(Observation({}, state, commanded_pose, cell.instruction, state.stamp_ns))

            with _RealtimePriority() as granted:
                summary = run_realtime(
                    loop,
                    _ClockedRobot(cell, clock),
                    client,
                    capture,
                    tally,
                    max_ticks=max(1, round(cell.instance.time_limit_s * config.control_rate_hz)),
                    stop=success_condition(cell, config),
                    clock=clock,
                    interrupt=interrupt,
                )
            cameras.close()
            while cameras.taken:
                tally.record_observation(cameras.taken.popleft())
            outcome = tally.finish(seed, policy.identity.name, config, summary)
    late_ms = np.array(summary.lateness_ns) * 1e-6
    p50, p99 = np.percentile(late_ms, [50, 99])
    return outcome, Timing(granted, float(p50), float(p99), float(late_ms.max()), summary.missed)


def _snapshot(cell: SimCell) -> FloatArray:
    model, data = cell.robot.model, cell.robot.data
    physics = np.empty(mujoco.mj_stateSize(model, _SNAPSHOT))
    mujoco.mj_getState(model, data, physics, _SNAPSHOT)
    return physics


class _RealtimePriority:
    """Real-time priority for the calling thread while the block runs, where the system permits it."""

    def __enter__(self) -> bool:
        self._policy, self._parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
        except PermissionError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        os.sched_setscheduler(0, self._policy, self._parameters)
