"""A policy server for openpi clients and for our own runtime, on one websocket port.

The event loop only moves messages: a policy process does the inference. Each client has its own bounded queue and its
own turn, so a slow, silent, hostile or greedy client costs the others nothing but its share of the model.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import importlib.metadata
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from controllers.protocols import ActionDecodeError, ActionDecoder
from controllers.types import ActionSpec
from vla.process import PolicyInferenceError
from vla.serving.access import authorized, check_exposure
from vla.serving.host import HostUnavailableError, Inference, PolicyHost, ServedPolicy
from vla.serving.mapping import MappingError
from vla.serving.messages import REQUEST, RESET, ErrorReply, InferReply, InferRequest, ServerMetadata
from vla.serving.session import Session, TooManyRequestsError, Work
from vla.serving.wire import WireError, WireLimits, pack, unpack_map
from vla.tokenizers import decoder_from_id

_log = logging.getLogger("vla.serving")

# Close codes, RFC 6455 section 7.4.1 and the IANA registry.
_INVALID_DATA, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1007, 1008, 1013


@dataclass(frozen=True)
class ServerOptions:
    """Address, limits and timeouts of a server.

    Attributes:
        host: Address to listen on; anything but loopback needs a token.
        port: 0 for any free one.
        token: What clients must show; empty for none.
        max_clients: Connections at a time.
        workers: Policy processes. Clients of a stateless policy share them; of any other policy each client has one
            to itself, so that there are as many places.
        threads: Compute threads of each policy process.
        limits: What one message may hold.
        infer_timeout_s: A policy process that takes longer is ended and started again.
        start_timeout_s: Longest time to load and warm up the policy.
        wait_timeout_s: A request that waited longer for its turn is answered with an error.
        send_timeout_s: A client that does not take its answer for so long is disconnected.
        open_timeout_s: Longest handshake.
        ping_interval_s: Between pings.
        ping_timeout_s: A client that does not answer a ping for so long is disconnected.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    max_clients: int = 32
    workers: int = 1
    threads: int = 1
    limits: WireLimits = WireLimits()
    infer_timeout_s: float = 10.0
    start_timeout_s: float = 120.0
    wait_timeout_s: float = 10.0
    send_timeout_s: float = 5.0
    open_timeout_s: float = 5.0
    ping_interval_s: float = 5.0
    ping_timeout_s: float = 5.0


class PolicyServer:
    """Serves one policy. :func:`running` starts and stops it."""

    def __init__(self, policy: ServedPolicy, options: ServerOptions) -> None:
        """Check the options.

        Raises:
            AccessError: A public address without a token.
            ValueError: No place for anybody.
        """
        check_exposure(options.host, options.token)
        if options.workers < 1 or options.max_clients < 1:
            raise ValueError(f"expected 1 worker and 1 client or more, found {options.workers}, {options.max_clients}")
        self._policy, self._options = policy, options
        self._hosts = [
            PolicyHost(policy.factory, options.infer_timeout_s, options.start_timeout_s, options.threads)
            for _ in range(options.workers)
        ]
        self._free = list(self._hosts)  # of a policy that remembers
        self._places = options.max_clients if policy.stateless else min(options.max_clients, options.workers)
        self._queue: asyncio.Queue[Session] = asyncio.Queue()
        self._drivers: list[asyncio.Task[None]] = []
        self._sessions: set[Session] = set()
        self._decoder: ActionDecoder | None = None
        self._greeting = b""
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    @property
    def clients(self) -> int:
        """Connected clients."""
        return len(self._sessions)

    @property
    def ready(self) -> bool:
        """Whether a policy can be asked."""
        return any(host.ready for host in self._hosts)

    async def start(self) -> None:
        """Load the policy, then listen.

        Raises:
            PolicyProcessError: The policy could not be built.
            OSError: The address is taken.
        """
        options = self._options
        spec, tokenizer_id = (await asyncio.gather(*(host.start() for host in self._hosts)))[0]
        self._decoder = decoder_from_id(tokenizer_id, spec, self._policy.tokenizer_definition)
        self._greeting = pack(self._metadata(spec, tokenizer_id).to_message())
        if self._policy.stateless:
            self._drivers = [asyncio.create_task(self._drive(host, self._queue)) for host in self._hosts]
        self._server = await serve(
            self._handle,
            options.host,
            options.port,
            process_request=self._admit,
            origins=[None],  # browsers send an origin: no page may reach a robot's policy through its user's machine
            compression=None,
            max_size=options.limits.max_bytes,
            max_queue=1,
            open_timeout=options.open_timeout_s,
            ping_interval=options.ping_interval_s,
            ping_timeout=options.ping_timeout_s,
            close_timeout=1.0,
            server_header=None,
            logger=logging.getLogger("vla.serving.websockets"),
        )

    async def close(self) -> None:
        """Disconnect everybody and end the policy."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for driver in self._drivers:
            driver.cancel()
        await asyncio.gather(*self._drivers, return_exceptions=True)
        await asyncio.gather(*(host.close() for host in self._hosts))

    # -- connections

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer ``/healthz``; let clients through that show the token while there is room."""
        if request.path == "/healthz":
            if self.ready:
                return connection.respond(http.HTTPStatus.OK, "OK\n")
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "the policy is being started\n")
        if request.path != "/":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "expected / or /healthz\n")
        if not authorized(request.headers.get("Authorization"), self._options.token):
            _log.warning("refused a connection from %s without a valid token", connection.remote_address)
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "expected the header `Authorization: Api-Key TOKEN`\n"
            )
        if len(self._sessions) >= self._places:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"all {self._places} places are taken\n")
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        if len(self._sessions) >= self._places:  # they were admitted at the same time
            await connection.close(_TRY_AGAIN_LATER, f"all {self._places} places are taken")
            return
        async with self._seat(str(connection.remote_address)) as session:
            try:
                await self._send(connection, self._greeting)
                async with asyncio.TaskGroup() as group:
                    writer = group.create_task(self._write(connection, session))
                    await self._read(connection, session)
                    writer.cancel()
            except* ConnectionClosed as gone:
                _log.info("client %d (%s): %s", session.number, session.peer, gone.exceptions[0])
            except* TimeoutError:
                _log.warning("client %d (%s) does not take its answers: disconnected", session.number, session.peer)
                connection.transport.abort()

    @asynccontextmanager
    async def _seat(self, peer: str) -> AsyncIterator[Session]:
        """A place for one client, with a policy process to itself where the policy remembers."""
        host = None if self._policy.stateless else self._free.pop()
        queue = self._queue if host is None else asyncio.Queue[Session]()
        session = Session(peer, queue)
        self._sessions.add(session)
        driver = None if host is None else asyncio.create_task(self._drive_own(host, queue))
        try:
            yield session
        finally:
            session.close()
            self._sessions.discard(session)
            if host is not None and driver is not None:
                driver.cancel()
                await asyncio.gather(driver, return_exceptions=True)
                self._free.append(host)
            _log.info("client %d left: %d answered, %d superseded", session.number, session.served, session.superseded)

    async def _read(self, connection: ServerConnection, session: Session) -> None:
        async for data in connection:
            try:
                if isinstance(data, str):
                    raise WireError("expected a binary frame, found text")
                session.offer(self._work(data))
            except MappingError as error:  # an observation that does not fit: the next one may
                await self._send(connection, str(error))
            except WireError as error:
                await self._refuse(connection, session, _INVALID_DATA, str(error))
            except TooManyRequestsError as error:
                await self._refuse(connection, session, _POLICY_VIOLATION, str(error))

    def _work(self, data: bytes) -> Work:
        message = unpack_map(data, self._options.limits)
        if RESET in message:
            return Work(0, None, tokens=True)
        if REQUEST not in message:
            return Work(0, self._policy.mapping.read(message, time.monotonic_ns()), tokens=False)
        request = InferRequest.from_message(message)
        decoder = self._decoder
        assert decoder is not None
        if request.spec_hash != decoder.spec.hash or request.tokenizer_id != decoder.tokenizer_id:
            raise WireError(
                f"expected action spec {decoder.spec.hash} and tokenizer {decoder.tokenizer_id!r}, which the policy "
                f"{self._policy.name!r} was built for; found {request.spec_hash} and {request.tokenizer_id!r}"
            )
        return Work(request.number, request.observation, tokens=True)

    async def _refuse(self, connection: ServerConnection, session: Session, code: int, text: str) -> None:
        _log.warning("client %d (%s): %s", session.number, session.peer, text)
        await self._send(connection, text)
        await connection.close(code, text.encode()[:120].decode(errors="ignore"))

    async def _write(self, connection: ServerConnection, session: Session) -> None:
        while True:
            answer = await session.next_answer()
            await self._send(connection, answer if isinstance(answer, str) else pack(answer))
            session.sent()

    async def _send(self, connection: ServerConnection, data: str | bytes) -> None:
        await asyncio.wait_for(connection.send(data), self._options.send_timeout_s)

    # -- inference

    async def _drive(self, host: PolicyHost, queue: asyncio.Queue[Session]) -> None:
        """Serve one session after the other, for ever."""
        while True:
            session = await queue.get()
            work = session.take()
            if work is None:
                continue
            answer = await self._answer(host, work)
            session.served += not isinstance(answer, str)
            session.answer(answer)

    async def _drive_own(self, host: PolicyHost, queue: asyncio.Queue[Session]) -> None:
        """The same for one client alone, whose process first forgets the client before."""
        with contextlib.suppress(HostUnavailableError):
            await host.reset()
        await self._drive(host, queue)

    async def _answer(self, host: PolicyHost, work: Work) -> dict[str, Any] | str | None:
        waited_s = time.monotonic() - work.since
        try:
            if work.observation is None:
                if not self._policy.stateless:
                    await host.reset()
                return None
            if waited_s > self._options.wait_timeout_s:
                raise TimeoutError(f"the request waited {waited_s:.1f} s for its turn; ask less often, or add workers")
            inference = await host.infer(work.observation)
            return self._reply(work, inference, waited_s * 1e3)
        except TimeoutError as error:
            return _error(work, "timeout", str(error))
        except HostUnavailableError as error:
            return _error(work, "unavailable", str(error))
        except PolicyInferenceError as error:
            _log.warning("%s", error)
            return _error(work, "refused", _last_line(error))
        except ActionDecodeError as error:
            return _error(work, "refused", f"the policy gave tokens that mean no action: {error}")

    def _reply(self, work: Work, inference: Inference, wait_ms: float) -> dict[str, Any]:
        chunk = inference.chunk
        if work.tokens:
            return InferReply(work.number, chunk, inference.infer_ms, wait_ms).to_message()
        assert self._decoder is not None
        return {
            "actions": self._decoder.decode(chunk.tokens).astype("float32"),
            "tokens": chunk.tokens,
            "tokenizer_id": chunk.tokenizer_id,
            "spec_hash": chunk.spec_hash,
            "server_timing": {"infer_ms": inference.infer_ms, "wait_ms": wait_ms},
        }

    def _metadata(self, spec: ActionSpec, tokenizer_id: str) -> ServerMetadata:
        return ServerMetadata(
            policy=self._policy.name,
            weights_sha256=self._policy.weights_sha256,
            tokenizer_id=tokenizer_id,
            spec=spec,
            observation=self._policy.mapping.to_json(),
            software=f"vla-stack {importlib.metadata.version('vla-stack')}",
            max_message_bytes=self._options.limits.max_bytes,
        )


@asynccontextmanager
async def running(policy: ServedPolicy, options: ServerOptions) -> AsyncIterator[PolicyServer]:
    """A server that runs while the block does."""
    server = PolicyServer(policy, options)
    try:
        await server.start()
        yield server
    finally:
        with contextlib.suppress(ConnectionClosed):
            await server.close()


def _error(work: Work, kind: str, text: str) -> dict[str, Any] | str:
    """Openpi clients raise on text frames; ours gets a typed error."""
    return ErrorReply(work.number, kind, text).to_message() if work.tokens else text


def _last_line(error: Exception) -> str:
    """What a remote client may know of a failure: its message without the traceback."""
    return str(error).strip().splitlines()[-1]
