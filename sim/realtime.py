"""One episode in real time: absolute deadlines, pictures and policy in processes of their own.

The simulation advances by one control period at each tick, so a recorded real-time episode replays bit for bit from
its log, whatever the machine did to its timing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from controllers.drivers import (
    EventSource,
    InterruptSwitch,
    Onlooker,
    OverrunPolicy,
    StopCondition,
    no_events,
    run_realtime,
)
from controllers.lateness import DeadlineRecord
from controllers.protocols import PolicyClient, PolicyHealth
from controllers.realtime import RealtimeOptions, realtime
from controllers.types import JointCommand, Observation, Pose, RobotState, TokenPrefix
from episodes.log_faults import LogReport
from episodes.profile import LogOptions
from episodes.results import EpisodeResult
from sim.assembly import SimCell, assemble_loop, assemble_sim, episode_config
from sim.cameras import CameraProcess, Shot
from sim.policies import EXPERTS
from sim.rollout import PolicySource, Tally, recorded_cell, success_condition
from sim.stack import StackConfig
from vla.process import SupervisedPolicy


@dataclass(frozen=True)
class RealtimeSettings:
    """How an episode runs against the wall clock.

    Attributes:
        system: What the tick's thread asks of the system.
        overruns: When too many overruns make the arm hold.
        log: How it is logged, and whether the arm holds while it cannot be.
        camera_hz: Pictures a second that are logged, besides those that the policy asks for; 0 logs the latter alone.
    """

    system: RealtimeOptions = RealtimeOptions()
    overruns: OverrunPolicy = OverrunPolicy()
    log: LogOptions = field(default_factory=LogOptions)
    camera_hz: float = 0.0

    def __post_init__(self) -> None:
        """Check the rate.

        Raises:
            ValueError: It is negative or not finite.
        """
        if not 0.0 <= self.camera_hz < math.inf:
            raise ValueError(f"expected camera_hz of 0 or more, found {self.camera_hz}; 0 logs what the policy sees")


@dataclass(frozen=True, slots=True)
class Timing:
    """How well the deadlines were met, and what the system refused.

    Attributes:
        deadlines: Lateness, overruns and misses.
        refused: What to change to get what the system refused; empty if it refused nothing.
        policy_faults: Why the policy's process was restarted, and how often; empty if it was not, or has none.
        log: How the log fared; an episode whose disk was full ends like any other, and says so here.
    """

    deadlines: DeadlineRecord
    refused: str
    policy_faults: dict[str, int]
    log: LogReport = LogReport()


class ClockedRobot:
    """The simulated arm with its readings stamped by the wall clock; a ``Robot``."""

    def __init__(self, cell: SimCell, clock: Callable[[], int]) -> None:
        """Wrap the arm of ``cell``; ``clock`` gives monotonic nanoseconds."""
        self._robot = cell.robot
        self._clock = clock

    def read(self) -> RobotState:
        """The sensed state, now."""
        return replace(self._robot.read(), stamp_ns=self._clock())

    def write(self, command: JointCommand) -> None:
        """Apply a command for one control period of the simulation."""
        self._robot.write(command)

    def physics_digest(self) -> bytes:
        """Identifies the physics state."""
        return self._robot.physics_digest()


def run_episode_realtime(
    task_name: str,
    seed: int,
    policy: PolicySource,
    config: StackConfig,
    *,
    out_dir: Path | None = None,
    instruction: str | None = None,
    interrupt: InterruptSwitch | None = None,
    settings: RealtimeSettings | None = None,
    events: EventSource = no_events,
    stop: StopCondition | None = None,
    max_ticks: int | None = None,
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
        settings: Priority, processors, overruns.
        events: Operator events by tick.
        stop: Ends the episode instead of the task's success.
        max_ticks: Time limit instead of the task's own.
    """
    policy.check(config)
    settings = settings or RealtimeSettings()
    with assemble_sim(replace(config, cameras={}), task_name, seed, instruction=instruction) as cell:
        config = episode_config(config, cell)
        started = time.monotonic_ns()

        def clock() -> int:
            return time.monotonic_ns() - started

        loop = assemble_loop(config)
        client = policy.client(cell, config)
        with recorded_cell(cell, seed, policy.identity, config, out_dir, realtime=True, log=settings.log) as tally:
            eyes = _Eyes(cell, config, policy, client, tally, settings)
            try:
                with realtime(settings.system) as grants:
                    summary = run_realtime(
                        loop,
                        ClockedRobot(cell, clock),
                        client,
                        eyes.capture,
                        tally,
                        max_ticks=max_ticks or max(1, round(cell.instance.time_limit_s * config.control_rate_hz)),
                        stop=stop or success_condition(cell, config),
                        clock=clock,
                        onlooker=eyes.onlooker,
                        events=events,
                        interrupt=interrupt,
                        overruns=settings.overruns,
                        health=_health(client),
                        log=tally,
                        log_failure=settings.log.failure,
                        grants=grants,
                    )
            finally:
                eyes.close()
            outcome = tally.finish(seed, policy.identity.name, config, summary)
    assert summary.deadlines is not None
    faults = client.faults if isinstance(client, SupervisedPolicy) else ()
    counts = dict(Counter(fault.kind.value for fault in faults))
    return outcome, Timing(summary.deadlines, grants.message, counts, tally.log_report)


class _Eyes:
    """What the tick calls when it wants an observation, and when it wants none; both return at once.

    Pictures are taken in a process of their own; a thread logs them and hands them to the policy. The expert needs
    none, so it is asked in the tick.
    """

    def __init__(
        self,
        cell: SimCell,
        config: StackConfig,
        policy: PolicySource,
        client: PolicyClient,
        tally: Tally,
        settings: RealtimeSettings,
    ) -> None:
        self._cell, self._client, self._tally = cell, client, tally
        self._blind = policy.identity.name in EXPERTS
        self._cameras: CameraProcess | None = None
        self._every = 0
        if config.cameras:
            self._cameras = CameraProcess(cell.scene.xml, dict(config.cameras), self._deliver, settings.system.priority)
            self._cameras.start()
            if settings.camera_hz > 0.0:
                self._every = config.control_rate_hz / settings.camera_hz
        self._due = 0.0

    @property
    def onlooker(self) -> Onlooker | None:
        """For pictures that nobody infers from, None where there are none."""
        return self._look if self._every else None

    def capture(self, state: RobotState, commanded_pose: Pose, prefix: TokenPrefix | None) -> None:
        plain = Observation({}, state, commanded_pose, self._cell.instruction, state.stamp_ns, prefix)
        self._shoot(plain, asked=True)
        if self._blind:
            self._client.request(plain)

    def close(self) -> None:
        if self._cameras is not None:
            self._cameras.close()

    def _look(self, tick: int, state: RobotState, commanded_pose: Pose) -> None:
        if tick >= self._due:
            self._due += self._every
            self._shoot(Observation({}, state, commanded_pose, self._cell.instruction, state.stamp_ns), asked=False)

    def _shoot(self, plain: Observation, *, asked: bool) -> None:
        if self._cameras is None:
            self._deliver(plain, asked)
        else:
            self._cameras.submit(Shot.now(self._cell.robot.model, self._cell.robot.data, plain, asked=asked))

    def _deliver(self, observation: Observation, asked: bool) -> None:
        self._tally.record_observation(observation)
        if asked and not self._blind:
            self._client.request(observation)


def _health(client: PolicyClient) -> PolicyHealth | None:
    """The client's signs of life, where it has any."""
    return client if isinstance(client, PolicyHealth) else None
