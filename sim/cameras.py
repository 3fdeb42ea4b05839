"""Pictures of the simulation, taken in a process of their own.

Rendering holds the interpreter's lock for as long as it takes, so a thread of the loop's process would keep the tick
waiting. The tick only copies the physics state into shared memory; a thread hands the finished observations on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import select
import signal
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from controllers.realtime import assisting
from controllers.types import FloatArray, Observation
from vla.process.channel import Channel, ChildChannel, ChildEnds
from vla.process.child import leave_with_parent
from vla.process.messages import decode_observation, encode_observation

_SNAPSHOT = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_START_TIMEOUT_S = 60.0
_SHOT_BYTES = 1 << 20
_LENGTH = struct.Struct("=Q")
_PERIOD_S = 0.1  # how often the thread looks whether it shall end


@dataclass(frozen=True, slots=True)
class Shot:
    """A moment to take pictures of.

    Attributes:
        physics: Full physics state.
        observation: What the robot sensed then, without pictures.
        asked: The policy waits for it; otherwise it is for the log alone.
    """

    physics: FloatArray
    observation: Observation
    asked: bool = True

    @staticmethod
    def now(model: mujoco.MjModel, data: mujoco.MjData, observation: Observation, *, asked: bool = True) -> Shot:
        """The simulation as it stands."""
        physics = np.empty(mujoco.mj_stateSize(model, _SNAPSHOT))
        mujoco.mj_getState(model, data, physics, _SNAPSHOT)
        return Shot(physics, observation, asked)


class CameraProcess:
    """Takes pictures of snapshots of the physics; of those that wait, the newest counts.

    A snapshot that the policy waits for is never displaced by one that is for the log alone.
    """

    def __init__(
        self,
        scene_xml: str,
        cameras: dict[str, tuple[int, int]],
        deliver: Callable[[Observation, bool], None],
        priority: int = 0,
    ) -> None:
        """Describe it; :meth:`start` starts the process.

        Args:
            scene_xml: The compiled scene.
            cameras: Camera name -> (height, width) in pixels.
            deliver: Takes every finished observation, and whether the policy asked for it, in a thread.
            priority: Real-time priority of the tick; the thread asks for the one below.
        """
        self._deliver, self._priority = deliver, priority
        pixels = sum(3 * height * width for height, width in cameras.values())
        self._channel = Channel(_SHOT_BYTES, reply_bytes=pixels + _SHOT_BYTES)
        self._process = multiprocessing.get_context("spawn").Process(
            target=_take_pictures, args=(self._channel.child_ends(), scene_xml, cameras), name="cameras", daemon=True
        )
        self._thread = threading.Thread(target=self._hand_on, name="cameras", daemon=True)
        self._closing = threading.Event()
        self._read = 0
        self._asked_ns = self._answered_ns = -1
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start, and wait until the renderer is warm.

        Raises:
            RuntimeError: There is no OpenGL context.
        """
        self._process.start()
        self._channel.release_child_ends()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._channel.heartbeat_ns:
            if self._process.exitcode is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(
                    f"the camera process did not get a GL context within {_START_TIMEOUT_S:g} s (its message is "
                    "above); `vla doctor` checks rendering"
                )
            time.sleep(0.01)
        self._thread.start()

    def submit(self, shot: Shot) -> None:
        """Ask for the pictures of a moment; returns at once."""
        if shot.asked:
            self._asked_ns = shot.observation.stamp_ns
        elif self._asked_ns > self._answered_ns:
            return  # it would displace the one that the policy waits for
        parts = encode_observation(shot.observation, int(shot.asked))
        self._channel.observations.write([_LENGTH.pack(shot.physics.nbytes), shot.physics.tobytes(), *parts])
        with contextlib.suppress(BrokenPipeError):  # it died: no picture, no chunk, and the arm comes to rest
            self._channel.wake()

    def close(self) -> None:
        """End.

        Raises:
            RuntimeError: Handing an observation on failed meanwhile.
        """
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10.0)
        self._channel.hang_up()
        if self._process.pid is not None:
            self._process.join(1.0)
            self._process.kill()
            self._process.join()
            self._process.close()
        self._channel.close()
        if self.failure is not None:
            raise RuntimeError("the pictures could not be handed on") from self.failure

    def _hand_on(self) -> None:
        try:
            with assisting(self._priority):
                while not self._closing.is_set():
                    ready, _, _ = select.select((self._channel.notified,), (), (), _PERIOD_S)
                    if ready:
                        self._channel.clear_notices()
                        self._hand_on_new()
        except BaseException as error:
            self.failure = error

    def _hand_on_new(self) -> None:
        replies = self._channel.replies
        for number in replies.since(self._read):
            self._read = number
            payload = replies.read(number)
            if payload is not None:
                observation, asked = decode_observation(payload)
                if asked:
                    self._answered_ns = observation.stamp_ns
                self._deliver(observation, bool(asked))


def _take_pictures(ends: ChildEnds, scene_xml: str, cameras: dict[str, tuple[int, int]]) -> None:
    """The process."""
    from sim.rendering import CameraRenderer, close_shared_context

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    channel = ChildChannel(ends)
    model = mujoco.MjModel.from_xml_string(scene_xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    taken = 0
    with CameraRenderer(model, cameras) as renderer:
        renderer.render(data)
        channel.beat(time.monotonic_ns())
        while channel.wait():
            newest = channel.observations.count
            payload = channel.observations.read(newest) if newest > taken else None
            if payload is None:
                continue
            taken = newest
            (size,) = _LENGTH.unpack_from(payload)
            body = _LENGTH.size + size
            physics = np.frombuffer(payload, np.float64, size // 8, _LENGTH.size)
            observation, asked = decode_observation(payload[body:])
            mujoco.mj_setState(model, data, physics, _SNAPSHOT)
            mujoco.mj_forward(model, data)
            pictures = replace(observation, images=renderer.render(data))
            channel.replies.write(encode_observation(pictures, asked))
            channel.notify()
    close_shared_context()
