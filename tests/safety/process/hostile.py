"""Controllers that do what controllers must not do; each is the main function of a process."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection

import numpy as np

from benchmarks.safe_stop import RealtimeArmFactory, swaying
from controllers.robot import load_robot
from controllers.types import CommandMode, JointCommand, OperatorEvent, frozen_array
from safety.process import KernelConfig, KernelContract, SafetyKernelClient, SafetyKernelProcess
from safety.process.inbox import INBOX_SIZE
from safety.process.memory import Segment
from safety.process.outbox import OutboxReader
from safety.process.slots import slot_size
from safety.process.wire import MESSAGE_SIZE
from safety.profile import load_profile

MODES = tuple(CommandMode)


def babble_bytes(address: str) -> None:
    """Random bytes all over the controller's memory, for ever."""
    inbox = Segment.open(OutboxReader(address).header.inbox, writable=True)
    while True:
        inbox.view[:INBOX_SIZE] = os.urandom(INBOX_SIZE)


def babble_slots(address: str, contract: KernelContract) -> None:
    """Attached, but what it sends are random bytes in its slots."""
    with SafetyKernelClient(address, contract):
        inbox = Segment.open(OutboxReader(address).header.inbox, writable=True)
        while True:
            inbox.view[64:INBOX_SIZE] = os.urandom(INBOX_SIZE - 64)


def babble_floats(address: str, contract: KernelContract) -> None:
    """Well-formed messages with random content."""
    rng = np.random.default_rng(0)
    specials = np.array([np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0])
    with SafetyKernelClient(address, contract) as client:
        while True:
            for _ in range(20):  # a row of fit but wild velocities, so that the arm does move
                client.send(wild(rng.normal(0.0, 3.0, contract.joints), time.monotonic_ns()))
                time.sleep(1e-3)
            values = (
                rng.choice(specials, contract.joints) if rng.random() < 0.5 else rng.normal(size=rng.integers(0, 30))
            )
            stamp = time.monotonic_ns() + int(rng.normal(0.0, 1e9))
            mode = MODES[rng.integers(len(MODES))]
            event = tuple(OperatorEvent)[rng.integers(1, 3)]  # reset, acknowledge
            client.send(JointCommand(mode, frozen_array(values), float(rng.choice(specials)), stamp), (event,))
            time.sleep(1e-3)


def wild(values: np.ndarray, now_ns: int) -> JointCommand:
    return JointCommand(CommandMode.VELOCITY, frozen_array(values), 0.04, now_ns)


def flood(address: str, contract: KernelContract) -> None:
    """Sways the arm, ten thousand commands a second."""
    home = load_robot(contract.robot).home
    with SafetyKernelClient(address, contract) as client:
        due = time.monotonic_ns()
        while True:
            state, _ = client.read()
            for _ in range(100):
                now = time.monotonic_ns()
                client.send(wild(swaying(state.joint_position, home, now * 1e-9), now))
                due += 100_000
                while time.monotonic_ns() < due:
                    pass
            due = max(due, time.monotonic_ns())


def die_inside_a_write(address: str, contract: KernelContract) -> None:
    """Sways the arm for a while, then is killed with half a message in each slot."""
    home = load_robot(contract.robot).home
    with SafetyKernelClient(address, contract) as client:
        for _ in range(60):
            state, _ = client.read_next(1.0)
            now = time.monotonic_ns()
            client.send(wild(swaying(state.joint_position, home, now * 1e-9), now))
        inbox = Segment.open(OutboxReader(address).header.inbox, writable=True)
        for at in (64, 64 + slot_size(MESSAGE_SIZE)):
            inbox.words[at // 8] |= 1
            inbox.view[at + 16 : at + 16 + MESSAGE_SIZE // 2] = os.urandom(MESSAGE_SIZE // 2)
        os.kill(os.getpid(), signal.SIGKILL)


def parent(pipe: Connection) -> None:
    """Starts a kernel, says where it is, and waits to be killed."""
    config = KernelConfig("panda", load_profile("panda_tabletop"), CommandMode.VELOCITY, orphan_grace_s=1.0)
    kernel = SafetyKernelProcess(config, RealtimeArmFactory(CommandMode.VELOCITY)).start()
    pipe.send((kernel.address, kernel.pid))
    signal.pause()
