"""One connection to a policy server, ours or a foreign one of the openpi protocol. Blocking; knows no threads."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from controllers.types import ActionChunk, ActionSpec, Observation
from vla.process import PolicyStartError, PolicyTimeoutError, ProcessMode
from vla.process.refusal import MAX_REASON
from vla.serving.discretize import Discretizer
from vla.serving.mapping import RemoteMapping
from vla.serving.messages import (
    ERROR,
    PROTOCOL_VERSION,
    RESET,
    ErrorReply,
    InferReply,
    InferRequest,
    ServerMetadata,
    describe_difference,
)
from vla.serving.wire import WireError, WireLimits, pack, unpack_map


@dataclass(frozen=True)
class RemoteOptions:
    """How to reach a policy server, and how long to wait for it.

    Attributes:
        url: ``ws://host:port`` or ``wss://host:port``.
        token: Shown to the server; empty for none.
        mapping: What a foreign server calls things; not used with our own.
        mode: When ``request`` returns.
        connect_timeout_s: Longest connection with handshake and metadata.
        timeout_s: Longest answer; after it the connection counts as lost.
        give_up_s: How long a lost connection is tried again before the client is dead.
        max_refusals: Answers in a row that may be refused or unfit before the client says so with an exception.
        ping_interval_s: Between pings.
        ping_timeout_s: A server that does not answer a ping for so long counts as lost.
        limits: What one message of the server may hold.
    """

    url: str
    token: str = ""
    mapping: RemoteMapping | None = None
    mode: ProcessMode = ProcessMode.ASYNCHRONOUS
    connect_timeout_s: float = 10.0
    timeout_s: float = 10.0
    give_up_s: float = 15.0
    max_refusals: int = 20
    ping_interval_s: float = 2.0
    ping_timeout_s: float = 4.0
    limits: WireLimits = WireLimits()


class RefusedError(Exception):
    """One answer that is an error or does not fit; the connection goes on."""


class LostError(Exception):
    """The connection cannot be used any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A chunk, the server's own time for it, and the largest error of discretizing it by dimension."""

    chunk: ActionChunk
    infer_ms: float
    error: tuple[float, ...] = ()


class PolicyConnection:
    """A connection that is opened again after it was lost; what it talks to is checked every time.

    Attributes:
        metadata: What our own server said of itself; None for a foreign one.
    """

    def __init__(self, options: RemoteOptions, spec: ActionSpec, tokenizer_id: str, definition: str = "") -> None:
        """Keep the settings; :meth:`open` connects.

        Raises:
            MappingError: The mapping is for another number of dimensions.
            ActionDecodeError: No such tokenizer.
        """
        self._options, self._spec, self._tokenizer_id = options, spec, tokenizer_id
        self._discretizer = Discretizer(tokenizer_id, spec, definition) if options.mapping is not None else None
        if options.mapping is not None:
            options.mapping.actions.check(spec)
        self.metadata: ServerMetadata | None = None
        self._socket: ClientConnection | None = None
        self._number = 0

    def open(self) -> None:
        """Connect, read the metadata, and compare them with the stack.

        Raises:
            LostError: Nobody there.
            PolicyStartError: Somebody who does not fit.
        """
        options = self._options
        headers = {"Authorization": f"Api-Key {options.token}"} if options.token else None
        try:
            socket = connect(
                options.url,
                additional_headers=headers,
                compression=None,
                proxy=None,
                max_size=options.limits.max_bytes,
                open_timeout=options.connect_timeout_s,
                ping_interval=options.ping_interval_s,
                ping_timeout=options.ping_timeout_s,
                close_timeout=1.0,
            )
        except InvalidURI as error:
            raise PolicyStartError(f"expected ws://host:port or wss://host:port, found {options.url!r}") from error
        except InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace").strip()
            said = f"{options.url}: the server refused the connection ({error.response.status_code}): {body}"
            if error.response.status_code == 503:
                raise LostError(said) from error
            raise PolicyStartError(said) from error
        except (OSError, InvalidHandshake, TimeoutError, ConnectionClosed) as error:
            raise LostError(f"cannot connect: {error}") from error
        try:
            self.metadata = self._greeted(socket)
        except BaseException:
            socket.close()
            raise
        self._socket = socket

    def _greeted(self, socket: ClientConnection) -> ServerMetadata | None:
        url = self._options.url
        try:
            data = socket.recv(self._options.connect_timeout_s)
            if isinstance(data, str):
                raise PolicyStartError(f"{url}: expected metadata, found the text {data[:MAX_REASON]!r}")
            metadata = ServerMetadata.from_message(unpack_map(data, self._options.limits))
        except TimeoutError as error:
            raise LostError("the server sent no metadata") from error
        except ConnectionClosed as error:
            raise LostError(str(error)) from error
        except WireError as error:
            raise PolicyStartError(f"{url}: {error}") from error
        if metadata is None:
            if self._options.mapping is None:
                raise PolicyStartError(
                    f"{url} is a foreign openpi server: expected a mapping that says what it calls its entries; "
                    "give one with --remote.mapping (docs/serving.md shows how)"
                )
            return None
        if metadata.spec.hash != self._spec.hash:
            raise PolicyStartError(
                f"{url} serves {metadata.policy!r} for another action spec: "
                f"{describe_difference(self._spec, metadata.spec)}; serve a policy for this stack, or change the stack"
            )
        if metadata.tokenizer_id != self._tokenizer_id:
            raise PolicyStartError(
                f"{url} emits tokens of {metadata.tokenizer_id!r}, the stack decodes {self._tokenizer_id!r}; "
                "they must be the same"
            )
        return metadata

    def ask(self, observation: Observation) -> Answer:
        """Send one observation and wait for its chunk.

        Raises:
            RefusedError: The server did not answer this observation.
            MappingError: An observation or a foreign chunk that the mapping does not describe.
            DiscretizationError: A foreign action that no token stands for.
            LostError: The connection cannot be used any more.
            PolicyTimeoutError: No answer in time.
        """
        if self.metadata is None:
            return self._exchange_foreign(observation)
        self._number += 1
        request = InferRequest(self._number, self._spec.hash, self._tokenizer_id, observation)
        self._send(request.to_message())
        deadline = time.monotonic() + self._options.timeout_s
        while True:
            message = self._receive(deadline)
            if ERROR in message:
                failure = ErrorReply.from_message(message)
                if failure.number == self._number:
                    raise RefusedError(f"the server says: {failure.message}")
                continue  # about an observation from before a reset
            reply = InferReply.from_message(message)
            if reply.number == self._number:
                return Answer(reply.chunk, reply.infer_ms)

    def _exchange_foreign(self, observation: Observation) -> Answer:
        mapping, discretizer = self._options.mapping, self._discretizer
        assert mapping is not None
        assert discretizer is not None
        self._send(mapping.observation.write(observation))
        message = self._receive(time.monotonic() + self._options.timeout_s)
        written = discretizer.encode(mapping.actions.read(message, self._spec))
        chunk = ActionChunk(written.tokens, self._tokenizer_id, self._spec.hash, observation.stamp_ns, 0)
        return Answer(chunk, _server_ms(message), tuple(written.error.tolist()))

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is None:
            raise LostError("not connected")
        try:
            self._socket.send(pack(message))
        except (ConnectionClosed, OSError) as error:
            raise LostError(str(error)) from error

    def _receive(self, deadline: float) -> dict[str, Any]:
        if self._socket is None:
            raise LostError("not connected")
        try:
            data = self._socket.recv(max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise PolicyTimeoutError(f"no answer from {self._options.url} in {self._options.timeout_s:g} s") from error
        except ConnectionClosed as error:
            raise LostError(str(error)) from error
        if isinstance(data, str):  # how openpi servers report a failure; what follows it decides about the connection
            raise RefusedError(f"the server says: {_last_line(data)}")
        try:
            return unpack_map(data, self._options.limits)
        except WireError as error:
            raise LostError(f"the server's answer cannot be read: {error}") from error

    def reset(self) -> None:
        """Tell the server that a new episode begins; a foreign one has no such message.

        Raises:
            LostError: The connection cannot be used any more.
        """
        if self.metadata is not None:
            self._send({RESET: PROTOCOL_VERSION})

    def close(self) -> None:
        """Disconnect. Safe to call twice, and from another thread."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()


def _server_ms(message: dict[str, Any]) -> float:
    timing = message.get("server_timing")
    value = timing.get("infer_ms") if isinstance(timing, dict) else None
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:MAX_REASON] if lines else "nothing"
