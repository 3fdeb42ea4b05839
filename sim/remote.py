"""A policy on a policy server, as a source of chunks for rollouts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controllers.names import unknown_name
from controllers.protocols import PolicyClient
from controllers.types import ActionChunk, Observation
from episodes.manifest import PolicyIdentity
from sim.assembly import SimCell
from sim.stack import StackConfig
from vla.process import ProcessMode
from vla.serving.access import is_loopback, read_token
from vla.serving.client import RemotePolicy
from vla.serving.connection import RemoteOptions
from vla.serving.mapping_file import load_mapping

_log = logging.getLogger("vla.serving")
_SCHEMES = ("ws://", "wss://")


def is_remote(policy: str) -> bool:
    """Whether a policy's name is the address of a server."""
    return policy.startswith(_SCHEMES)


@dataclass(frozen=True)
class RemoteAccess:
    """How to talk to a policy server, with ``--policy ws://host:port``."""

    mapping: str = ""
    """For a foreign openpi server: what it calls its entries; a built-in name (tabletop, libero) or a YAML file."""
    token_file: Path | None = None
    """File with the server's token; without one the variable VLA_TOKEN is read."""

    def check(self, url: str) -> None:
        """Refuse what cannot work before anything starts.

        Raises:
            ValueError: An unusable address, token or mapping.
        """
        parts = urlsplit(url)
        if not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username or parts.password:
            raise ValueError(f"expected ws://host:port or wss://host:port, found {url!r}")
        self.options(url, ProcessMode.LOCK_STEP)

    def options(self, url: str, mode: ProcessMode) -> RemoteOptions:
        """Everything that a client needs; reads the token and the mapping."""
        mapping = load_mapping(self.mapping) if self.mapping else None
        token, parts = read_token(self.token_file), urlsplit(url)
        if token and parts.scheme == "ws" and not is_loopback(parts.hostname or ""):
            _log.warning("%s: pictures and token cross the network unencrypted; use wss:// or a tunnel", url)
        return RemoteOptions(url, token=token, mapping=mapping, mode=mode)


class RemoteSource:
    """A policy server's chunks; one connection, kept between episodes."""

    def __init__(self, url: str, access: RemoteAccess, mode: ProcessMode) -> None:
        """Keep the address; :meth:`check` connects, once it knows the stack."""
        self._options = access.options(url, mode)
        self._client: RemotePolicy | None = None

    @property
    def identity(self) -> PolicyIdentity:
        """The server's policy and its address."""
        metadata = None if self._client is None else self._client.metadata
        if metadata is None:
            return PolicyIdentity(self._options.url)
        return PolicyIdentity(f"{metadata.policy} at {self._options.url}", metadata.weights_sha256)

    @property
    def remote(self) -> RemotePolicy:
        """The client, once :meth:`check` has connected it."""
        if self._client is None:
            raise RuntimeError("the policy server was not asked yet: call check first")
        return self._client

    def check(self, config: StackConfig) -> None:
        """Connect, and refuse a server whose policy was built for another stack.

        Raises:
            ValueError: Cameras that the server needs are missing.
            PolicyStartError: No server, no access, or another action spec, tokenizer or protocol.
        """
        if not config.cameras:
            raise ValueError("the policy needs pictures, but the stack has no cameras")
        mapping = self._options.mapping
        for image in () if mapping is None else mapping.observation.images:
            if image.camera not in config.cameras:
                raise ValueError(f"mapping of {image.key}: {unknown_name('camera', image.camera, config.cameras)}")
        client = self._client
        if client is not None and (client.spec, client.tokenizer_id) != (config.action_spec, config.tokenizer_id):
            client.close()
            client = None
        if client is None:
            self._client = RemotePolicy(
                self._options, config.action_spec, config.tokenizer_id, config.tokenizer_definition
            ).start()

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        """The connection, with the past episode forgotten."""
        self.remote.reset()
        return self.remote

    def ask(self, observation: Observation) -> ActionChunk:
        """The chunk for one observation, outside any episode; in lock-step only."""
        self.remote.request(observation)
        (arrival,) = self.remote.poll()
        return arrival.chunk

    def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            self._client.close()
