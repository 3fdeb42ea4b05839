"""Options of everything that runs against the wall clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controllers.drivers import LogFailure, OverrunPolicy
from controllers.executor import ExecutorOptions
from controllers.realtime import RealtimeOptions
from episodes.profile import CameraProfile, LogOptions
from sim.policies import Supervision
from sim.realtime import RealtimeSettings
from vla.process import RestartOptions


@dataclass(frozen=True)
class TimingOptions:
    """What the system is asked for, and what happens when something is late."""

    priority: int = RealtimeOptions.priority
    """SCHED_FIFO priority of the control loop, 1 to 98; 0 to stay an ordinary thread."""
    lock_memory: bool = RealtimeOptions.lock_memory
    """Keep the loop's memory in RAM."""
    cpus: tuple[int, ...] = ()
    """Processors that the control loop may run on; none given: any."""
    hold_after: int = OverrunPolicy.hold_after
    """Make the arm hold once this many ticks of the last second overran; 0 never does."""
    policy_cpus: tuple[int, ...] = ()
    """Processors that the policy's process may run on; none given: any."""
    policy_niceness: int = 0
    """Niceness of the policy's process, 0 to 19."""
    answer_timeout_s: float = ExecutorOptions().max_chunk_age_s
    """Restart the policy's process when a chunk takes longer."""
    heartbeat_timeout_s: float = 1.0
    """Restart the policy's process when it gives no sign of life for longer."""
    restart_delay_s: float = RestartOptions.first_delay_s
    """Before the first restart; doubled with each further one in a row, up to 10 s."""
    log_failure: Literal["continue", "hold"] = "continue"
    """What the arm does while the log cannot be written; its ticks wait in memory meanwhile."""
    camera_hz: float = RealtimeSettings.camera_hz
    """Log so many pictures a second, besides those that the policy asks for; 0 for the latter alone."""

    def settings(self, cameras: CameraProfile | None = None) -> RealtimeSettings:
        """What the loop is told; ``cameras`` says how its pictures are logged.

        Raises:
            ValueError: A priority or a processor that no system, or this one, can grant.
        """
        system = RealtimeOptions(self.priority, self.lock_memory, self.cpus)
        log = LogOptions(cameras or CameraProfile(), LogFailure(self.log_failure))
        return RealtimeSettings(system, OverrunPolicy(self.hold_after), log, self.camera_hz)

    def supervision(self) -> Supervision:
        """What the client of the policy's process is told."""
        return Supervision(
            answer_timeout_s=self.answer_timeout_s,
            heartbeat_timeout_s=self.heartbeat_timeout_s,
            niceness=self.policy_niceness,
            cpus=self.policy_cpus,
            restarts=RestartOptions(first_delay_s=self.restart_delay_s),
        )
