"""Our client against servers of every temper, its own and foreign ones, on real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection

from controllers.types import ActionChunk, ChunkArrival, frozen_array
from tests.vla.serving.worlds import SPEC, TABLETOP, TOKENIZER, RunningServer, foreign_server, observation, toy
from vla.process import PolicyDiedError, PolicyInferenceError, PolicyStartError, PolicyTimeoutError, ProcessMode
from vla.serving.client import RemotePolicy
from vla.serving.connection import RemoteOptions
from vla.serving.discretize import DiscretizationError, Discretizer
from vla.serving.messages import ServerMetadata
from vla.serving.server import ServerOptions
from vla.serving.wire import pack, unpack_map
from vla.tokenizers import decoder_from_id

ACTIONS = np.tile(np.array([0.001, -0.002, 0.003, 0.01, -0.02, 0.03, 1.0], dtype=np.float32), (8, 1))
Answer = Callable[[dict[str, Any], int], dict[str, Any] | str]


def openpi_like(answer: Answer, seen: list[dict[str, Any]] | None = None, *, hang_up_on_error: bool = True):
    """A handler that does what openpi's documentation and client say of its server.

    Metadata first; each observation is answered by a map with ``actions`` and ``server_timing``; a failure by its
    traceback as text, after which the server closes with 1011.
    """

    async def handler(connection: ServerConnection) -> None:
        await connection.send(pack({"model": "somebody else's"}))
        number = 0
        async for data in connection:
            assert isinstance(data, bytes)
            message = unpack_map(data)
            if seen is not None:
                seen.append(message)
            reply = answer(message, number)
            number += 1
            await connection.send(reply if isinstance(reply, str) else pack(reply))
            if isinstance(reply, str) and hang_up_on_error:
                await connection.close(1011, "Internal server error. Traceback included in previous frame.")

    return handler


def actions(values: np.ndarray = ACTIONS) -> dict[str, Any]:
    return {"actions": values, "server_timing": {"infer_ms": 1.5}}


def client(url: str, mode: ProcessMode = ProcessMode.LOCK_STEP, **changes: Any) -> RemotePolicy:
    options = RemoteOptions(url, mapping=TABLETOP, mode=mode, **changes)
    return RemotePolicy(options, SPEC, TOKENIZER)


def answer_of(policy: RemotePolicy, stamp_ns: int = 1) -> ChunkArrival:
    policy.request(observation(stamp_ns))
    (arrival,) = policy.poll()
    return arrival


def wait_for(policy: RemotePolicy, timeout_s: float = 20.0) -> ChunkArrival:
    deadline = time.monotonic() + timeout_s
    while not (arrived := policy.poll()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return arrived[-1]


# -------------------------------------------------------------------------------------- foreign servers


def test_a_foreign_server_sees_what_the_mapping_says_and_its_actions_become_tokens() -> None:
    seen: list[dict[str, Any]] = []
    with foreign_server(openpi_like(lambda message, number: actions(), seen)) as url, client(url) as policy:
        arrival = answer_of(policy, 7)
        assert policy.metadata is None
        assert policy.statistics.infer_ms == 1.5
    (message,) = seen
    assert set(message) == {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
    assert message["observation/image"].shape == (128, 128, 3)
    assert message["observation/state"].dtype == np.float32
    assert message["prompt"] == "go"
    chunk = arrival.chunk
    assert (chunk.tokenizer_id, chunk.spec_hash, chunk.observation_stamp_ns) == (TOKENIZER, SPEC.hash, 7)
    decoder = decoder_from_id(TOKENIZER, SPEC)
    error = np.abs(decoder.decode(chunk.tokens) - ACTIONS).max(axis=0)
    assert (error <= Discretizer(TOKENIZER, SPEC).bound + 1e-12).all()
    assert policy.statistics.quantization_error == pytest.approx(error.tolist())


def test_a_foreign_server_needs_a_mapping() -> None:
    with foreign_server(openpi_like(lambda message, number: actions())) as url:
        policy = RemotePolicy(RemoteOptions(url), SPEC, TOKENIZER)
        with pytest.raises(PolicyStartError, match=r"a foreign openpi server: expected a mapping .*--remote\.mapping"):
            policy.start()


def not_finite() -> np.ndarray:
    values = ACTIONS.copy()
    values[3, 1] = np.nan
    return values


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (actions(ACTIONS[:, :6]), "expected 7 dimensions (dx, dy, dz, drx, dry, drz, gripper), found 6"),
        (actions(ACTIONS[:5]), "expected 8 rows, found 5"),
        (actions(np.tile(ACTIONS, (2, 1))), "expected 8 rows, found 16; `rows: first`"),
        (actions(not_finite()), "row 3, dy: expected a finite value"),
        (actions(ACTIONS * 100), "row 0, dx: expected a value in [-0.01, 0.01] m, found 0.1"),
        (actions(ACTIONS.astype(np.int64)), "expected a float array (horizon, dims), found an array of shape (8, 7)"),
        ({"action": ACTIONS}, "expected an entry 'actions'"),
        ("Traceback (most recent call last):\n  ...\nKeyError: 'observation/image'", "the server says: KeyError"),
    ],
)
def test_what_does_not_fit_is_a_chunk_that_nothing_decodes(reply: dict[str, Any] | str, reason: str) -> None:
    with (
        foreign_server(openpi_like(lambda message, number: reply if number == 0 else actions())) as url,
        client(url) as policy,
    ):
        refused = answer_of(policy, 1).chunk
        assert refused.tokenizer_id.startswith("none: ")
        assert reason in refused.tokenizer_id
        assert refused.tokens.size == 0
        assert policy.statistics.refused == 1
        if isinstance(reply, dict):
            assert answer_of(policy, 2).chunk.tokenizer_id == TOKENIZER


def test_a_server_that_refuses_everything_ends_in_an_error() -> None:
    with (
        foreign_server(openpi_like(lambda message, number: "no", hang_up_on_error=False)) as url,
        client(url, max_refusals=3) as policy,
    ):
        answer_of(policy, 1)
        answer_of(policy, 2)
        with pytest.raises(PolicyInferenceError, match=r"3 answers in a row were refused; the last: .*no"):
            policy.request(observation(3))


def test_a_server_that_hangs_up_after_an_error_is_called_again() -> None:
    def first_fails(message: dict[str, Any], number: int) -> dict[str, Any] | str:
        return "ValueError: bad" if message["prompt"] == "fail" else actions()

    with foreign_server(openpi_like(first_fails)) as url, client(url) as policy:
        policy.request(observation(1, "fail"))
        assert "ValueError: bad" in policy.poll()[0].chunk.tokenizer_id
        assert answer_of(policy, 2).chunk.tokenizer_id == TOKENIZER
        assert policy.statistics.reconnects == 1


@given(st.lists(st.floats(-1.0, 1.0), min_size=7, max_size=7))
def test_the_stated_error_is_the_error_and_at_most_half_a_bin(values: list[float]) -> None:
    span = (np.array(SPEC.upper) - SPEC.lower) / 2.0
    wanted = np.tile(np.array(values) * span + (SPEC.upper + SPEC.lower) / 2.0, (8, 1))
    discretizer = Discretizer(TOKENIZER, SPEC)
    written = discretizer.encode(np.clip(wanted, SPEC.lower, SPEC.upper))
    decoded = decoder_from_id(TOKENIZER, SPEC).decode(written.tokens)
    assert np.abs(decoded - wanted).max(axis=0) == pytest.approx(written.error, abs=1e-12)
    assert (written.error <= discretizer.bound + 1e-12).all()


def test_an_action_beyond_the_quantiles_is_refused_though_the_bounds_allow_it() -> None:
    statistics = replace(SPEC.statistics, q99=frozen_array([0.005, *SPEC.statistics.q99[1:]]))
    narrow = replace(SPEC, statistics=statistics)
    values = np.tile(np.zeros(7), (8, 1))
    Discretizer(TOKENIZER, narrow).encode(values)
    values[2, 0] = 0.009
    with pytest.raises(DiscretizationError, match=r"row 2, dx: 0\.009 m is 0\.004.* more than the tokenizer's error"):
        Discretizer(TOKENIZER, narrow).encode(values)


# -------------------------------------------------------------------------------------------- handshake


def own_server(**changes: Any):
    """A handler that greets as our server would, with something changed."""

    async def handler(connection: ServerConnection) -> None:
        metadata = ServerMetadata("toy", "", TOKENIZER, SPEC, {}, "vla-stack", 1000)
        await connection.send(pack({**metadata.to_message(), **changes}))
        await connection.wait_closed()

    return handler


OTHER = replace(SPEC, rate_hz=50)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vla/protocol": 2}, "expected protocol version 1, found 2; install the same release"),
        ({"spec_hash": "0" * 16}, "expected the action spec '0000000000000000' of the server"),
        ({"action_spec": {}}, "the server's action spec cannot be read"),
        ({"action_spec": OTHER.to_json(), "spec_hash": OTHER.hash}, "rate_hz: expected 20, found 50"),
        ({"tokenizer_id": "uniform-256/rt2"}, "emits tokens of 'uniform-256/rt2', the stack decodes 'uniform-255/rt2'"),
    ],
)
def test_a_server_of_another_contract_is_refused_at_the_start(changes: dict[str, Any], reason: str) -> None:
    with foreign_server(own_server(**changes)) as url, pytest.raises(PolicyStartError) as error:
        client(url).start()
    assert reason in str(error.value)


def test_nobody_there_says_so() -> None:
    with pytest.raises(PolicyStartError, match=r"ws://127\.0\.0\.1:9: cannot connect"):
        client("ws://127.0.0.1:9").start()
    with pytest.raises(PolicyDiedError, match="never started"):
        client("ws://127.0.0.1:9").poll()


# ------------------------------------------------------------------------------------ lost and silent


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    async def silent(connection: ServerConnection) -> None:
        await connection.send(pack({}))
        await connection.wait_closed()

    with foreign_server(silent) as url, client(url, timeout_s=0.3) as policy:
        with pytest.raises(PolicyTimeoutError, match=r"no answer from .* in 0\.3 s"):
            policy.request(observation(1))
        with pytest.raises(PolicyTimeoutError):
            policy.poll()


def test_in_real_time_a_lost_connection_is_made_again_and_the_arm_just_gets_nothing() -> None:
    connections = [0]

    async def hangs_up_once(connection: ServerConnection) -> None:
        connections[0] += 1
        await connection.send(pack({}))
        async for _ in connection:
            if connections[0] == 1:
                connection.transport.abort()
                return
            await connection.send(pack(actions()))

    with foreign_server(hangs_up_once) as url, client(url, ProcessMode.ASYNCHRONOUS) as policy:
        policy.request(observation(1))
        deadline = time.monotonic() + 20
        while policy.statistics.reconnects == 0:
            assert policy.poll() == ()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        policy.request(observation(2))
        assert wait_for(policy).chunk.observation_stamp_ns == 2


def test_a_server_that_stays_away_is_given_up() -> None:
    with foreign_server(openpi_like(lambda message, number: actions())) as url:
        policy = client(url, ProcessMode.ASYNCHRONOUS, give_up_s=0.5).start()
        policy.request(observation(1))
        wait_for(policy)
    policy.request(observation(2))
    with pytest.raises(PolicyDiedError, match=r"is lost: .*gave up after 0\.5 s"):
        wait_for(policy)
    with pytest.raises(PolicyDiedError):
        policy.request(observation(3))
    policy.close()


def test_a_request_returns_at_once_and_the_newest_waits() -> None:
    with (
        RunningServer(toy("build_echo", delay_s=0.3), ServerOptions()) as server,
        server.client(ProcessMode.ASYNCHRONOUS) as policy,
    ):
        started = time.monotonic()
        policy.request(observation(1, "say 1"))
        time.sleep(0.1)
        for number in (2, 3, 4):
            policy.request(observation(number, f"say {number}"))
        assert policy.poll() == ()
        assert time.monotonic() - started < 0.3
        first, second = wait_for(policy).chunk, wait_for(policy).chunk
        assert (first.observation_stamp_ns, second.observation_stamp_ns) == (1, 4)
        assert second.tokens[0, 0] == 132
        assert policy.statistics.dropped == 2


def test_an_answer_from_before_a_reset_is_dropped() -> None:
    with (
        RunningServer(toy("build_echo", delay_s=0.2), ServerOptions()) as server,
        server.client(ProcessMode.ASYNCHRONOUS) as policy,
    ):
        policy.request(observation(1))
        time.sleep(0.1)
        policy.reset()
        policy.request(observation(2))
        assert wait_for(policy).chunk.observation_stamp_ns == 2


def test_a_closed_client_says_so() -> None:
    with foreign_server(openpi_like(lambda message, number: actions())) as url:
        policy = client(url).start()
        policy.close()
        policy.close()
        with pytest.raises(PolicyDiedError, match="closed"):
            policy.request(observation(1))


def test_chunk_ids_increase() -> None:
    with foreign_server(openpi_like(lambda message, number: actions())) as url, client(url) as policy:
        chunks: list[ActionChunk] = [answer_of(policy, stamp).chunk for stamp in (1, 2, 3)]
    assert [chunk.chunk_id for chunk in chunks] == [1, 2, 3]
