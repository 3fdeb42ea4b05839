"""A policy on a server drives episodes through the whole stack: what it sends is logged, refused or replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection

from controllers.drivers import InterruptSwitch
from controllers.protocols import PolicyClient
from controllers.types import ChunkArrival, Observation
from episodes.reader import open_episode
from episodes.replay import replay
from sim.assembly import SimCell, default_config, rebuild_for_replay
from sim.policies import PolicyChoice
from sim.remote import RemoteAccess, RemoteSource
from sim.rollout import run_episode
from sim.stack import StackConfig
from sim.tabletop import TABLETOP_ACTION_SPEC
from tests.vla.serving.worlds import RunningServer, foreign_server, toy
from vla.process import PolicyStartError, ProcessMode
from vla.serving.server import ServerOptions
from vla.serving.wire import pack

REQUESTS = 5  # then the episode is ended


class ShortSource(RemoteSource):
    """A server's chunks, and an end after a few of them."""

    def __init__(self, url: str, access: RemoteAccess, switch: InterruptSwitch) -> None:
        super().__init__(url, access, ProcessMode.LOCK_STEP)
        self.switch = switch

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        return _Counted(super().client(cell, config), self.switch)


class _Counted:
    def __init__(self, inner: PolicyClient, switch: InterruptSwitch) -> None:
        self._inner, self._switch, self._left = inner, switch, REQUESTS

    def request(self, observation: Observation) -> None:
        self._left -= 1
        if self._left == 0:
            self._switch.press()
        self._inner.request(observation)

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        return self._inner.poll(now_ns)


def run(url: str, out: Path, mapping: str = ""):
    switch = InterruptSwitch(settle_ticks=5)
    source = ShortSource(url, RemoteAccess(mapping=mapping), switch)
    try:
        outcome = run_episode("reach", 7, source, default_config(), out_dir=out, interrupt=switch)
    finally:
        source.close()
    return outcome, open_episode(out / outcome.episode)


@pytest.mark.gl
def test_an_episode_from_our_server_logs_latency_and_replays(tmp_path: Path) -> None:
    with RunningServer(toy("build_tabletop"), ServerOptions()) as server:
        outcome, episode = run(server.url, tmp_path)
    assert outcome.policy == f"toy at {server_url(episode)}"
    assert outcome.chunks == REQUESTS - 1  # the last one meets an arm that was told to hold
    assert (episode.chunks.inference_ns > 0).all()
    assert episode.manifest.policy.weights_sha256 == "ab" * 32
    assert replay(episode, rebuild_for_replay).identical


def server_url(episode) -> str:
    return episode.manifest.policy.name.removeprefix("toy at ")


@pytest.mark.gl
def test_a_foreign_server_that_sends_rubbish_moves_nothing_and_the_log_says_why(tmp_path: Path) -> None:
    spec = TABLETOP_ACTION_SPEC

    async def rubbish(connection: ServerConnection) -> None:
        await connection.send(pack({}))
        async for _ in connection:
            message: dict[str, Any] = {"actions": np.full((spec.horizon, spec.dims), np.nan, np.float32)}
            await connection.send(pack(message))

    with foreign_server(rubbish) as url:
        outcome, episode = run(url, tmp_path, "tabletop")
    assert outcome.chunks == 0
    assert outcome.rejections["unknown_tokenizer"] == REQUESTS - 1  # the last one meets an arm that was told to hold
    _, record = episode.chunk_records[0]
    assert record.header["tokenizer_id"] == "none: actions: row 0, dx: expected a finite value"
    moved = np.ptp(episode.ticks.state_ee_pose[:, :3], axis=0)
    assert (moved < 1e-3).all()
    assert replay(episode, rebuild_for_replay).identical


def test_a_server_for_another_stack_is_refused() -> None:
    with RunningServer(toy("build_echo"), ServerOptions()) as server:
        source = PolicyChoice(server.url)()
        with pytest.raises(PolicyStartError, match="serves 'toy' for another action spec: units: expected"):
            source.check(default_config())


@pytest.mark.parametrize("url", ["ws://", "ws://host:8000/path", "ws://user:password@host:8000", "ws://host?x=1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected ws://host:port"):
        PolicyChoice(url)
