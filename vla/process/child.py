"""What runs in the policy process."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback

from controllers.protocols import Policy
from vla.process.account import Accounting, BoundaryAccount
from vla.process.channel import ChildChannel, ChildEnds
from vla.process.factory import PolicyFactory
from vla.process.mailbox import MessageTooLargeError
from vla.process.messages import Answer, Failure, Ready, Reply, decode_observation, encode_reply
from vla.process.timing import RequestTiming, Timed

HEARTBEAT_PERIOD_S = 0.02
_PR_SET_PDEATHSIG = 1


def serve(ends: ChildEnds, factory: PolicyFactory, threads: int, niceness: int, cpus: tuple[int, ...]) -> None:
    """Build the policy and answer observations until nobody asks any more.

    Args:
        ends: The child's ends of the channel.
        factory: Builds the policy.
        threads: Compute threads.
        niceness: Added to the process's niceness.
        cpus: Processors it may run on; none given: any.
    """
    _settle(threads, niceness, cpus)
    channel = ChildChannel(ends)
    threading.Thread(target=_beat, args=(channel,), daemon=True).start()
    try:
        policy = factory.build()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        warm_up = getattr(policy, "warm_up", None)
        if warm_up is not None:
            warm_up()
        _send(channel, Ready(policy.spec, policy.tokenizer_id))
    except Exception:
        _send(channel, Failure(0, traceback.format_exc()))
        return
    _answer_all(channel, policy)


def _settle(threads: int, niceness: int, cpus: tuple[int, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    # A stopped process cannot see that its parent is gone; the system then ends it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    # Started from the loop's process or not: no real-time priority, which would starve the tick.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if niceness:
        os.nice(niceness)
    if cpus:
        os.sched_setaffinity(0, cpus)


def leave_with_parent() -> None:
    """End at once when the parent is gone, even in the middle of an inference."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _beat(channel: ChildChannel) -> None:
    while True:
        channel.beat(time.monotonic_ns())
        time.sleep(HEARTBEAT_PERIOD_S)


def _answer_all(channel: ChildChannel, policy: Policy) -> None:
    answered, episode = 0, -1
    while channel.wait():
        while (newest := channel.observations.count) > answered:
            payload = channel.observations.read(newest)
            if payload is None:  # overwritten meanwhile: there is a newer one
                time.sleep(1e-4)
                continue
            answered = newest
            observation, current = decode_observation(payload)
            if current != episode:
                policy.reset()
                episode = current
            started = time.perf_counter_ns()
            try:
                chunk = policy.infer(observation)
                took = time.perf_counter_ns() - started
                account = _account(policy)
                timing = _timing(policy)
                reply: Reply = Answer(newest, chunk, took, time.monotonic_ns(), account, timing)
            except Exception:
                reply = Failure(newest, traceback.format_exc())
            _send(channel, reply)


def _account(policy: object) -> BoundaryAccount | None:
    return policy.account if isinstance(policy, Accounting) else None


def _timing(policy: object) -> RequestTiming | None:
    return policy.timing if isinstance(policy, Timed) else None


def _send(channel: ChildChannel, reply: Reply) -> None:
    number = reply.number if not isinstance(reply, Ready) else 0
    try:
        channel.replies.write(encode_reply(reply))
    except (TypeError, ValueError, AttributeError, MessageTooLargeError):
        channel.replies.write(encode_reply(Failure(number, traceback.format_exc())))
    channel.notify()
