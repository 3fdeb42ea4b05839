"""Servers, clients and observations of the serving tests. Sockets and processes are real."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from websockets.asyncio.server import ServerConnection, serve

from controllers.types import Observation
from tests.vla.synthetic import ToyWorld, toy_spec
from vla.process import PolicyFactory, ProcessMode
from vla.serving.client import RemotePolicy
from vla.serving.connection import RemoteOptions
from vla.serving.host import ServedPolicy
from vla.serving.mapping import RemoteMapping
from vla.serving.mapping_file import load_mapping
from vla.serving.server import PolicyServer, ServerOptions, running

TOKENIZER = "uniform-255/rt2"
SPEC = toy_spec()
TABLETOP: RemoteMapping = load_mapping("tabletop")


def observation(stamp_ns: int = 0, instruction: str = "go") -> Observation:
    seen = ToyWorld.create(0).observe(stamp_ns, np.random.default_rng(0))
    return Observation(seen.images, seen.state, seen.commanded_pose, instruction, stamp_ns)


def toy(target: str = "build", *, stateless: bool = True, **arguments: object) -> ServedPolicy:
    factory = PolicyFactory(f"tests.vla.toy_policies:{target}", arguments)
    return ServedPolicy("toy", factory, TABLETOP.observation, "ab" * 32, stateless=stateless)


class RunningServer:
    """A server in a thread with an event loop of its own; sockets are opened before the block is entered."""

    def __init__(self, policy: ServedPolicy, options: ServerOptions) -> None:
        self._policy, self._options = policy, replace(options, port=0)
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self.loop = asyncio.new_event_loop()
        self.server: PolicyServer | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()
            self.loop.close()

    async def _serve(self) -> None:
        async with running(self._policy, self._options) as self.server:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> RunningServer:
        self._thread.start()
        assert self._ready.wait(60)
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def clients(self) -> int:
        assert self.server is not None
        return self.server.clients

    def client(self, mode: ProcessMode = ProcessMode.LOCK_STEP, **options: object) -> RemotePolicy:
        return RemotePolicy(RemoteOptions(self.url, mode=mode, **options), SPEC, TOKENIZER)  # pyright: ignore


@contextmanager
def foreign_server(handler: Callable[[ServerConnection], Awaitable[None]]) -> Iterator[str]:
    """A server with any behaviour; gives its address."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    port, stop = [0], asyncio.Event()

    async def main() -> None:
        async with serve(handler, "127.0.0.1", 0, compression=None, max_size=None) as server:
            port[0] = next(iter(server.sockets)).getsockname()[1]
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"ws://127.0.0.1:{port[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
