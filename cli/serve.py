"""Serve a policy over websockets, to openpi clients and to `vla run --policy ws://host:port`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from cli.output import console, print_json
from controllers.names import unknown_name
from sim.assembly import default_config
from sim.foreign import ForeignAccess, choose_foreign, foreign_kind, weights_hash
from sim.policies import COMPACT, EXPERTS, WEIGHTS_FILE, PolicyChoice
from sim.remote import is_remote
from vla.catalog import policy_factory
from vla.serving.access import is_loopback, read_token
from vla.serving.host import ServedPolicy
from vla.serving.mapping_file import load_mapping
from vla.serving.server import ServerOptions, running
from vla.serving.wire import WireLimits


@dataclass(frozen=True)
class Options:
    """Options of ``vla serve``."""

    policy: str = COMPACT
    """compact, the path of a policy folder, lerobot:PATH, rt2:PATH, openvla:PATH or openvla-oft:PATH."""
    foreign: tyro.conf.OmitArgPrefixes[ForeignAccess] = field(default_factory=ForeignAccess)
    """How to run another project's policy."""
    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs a token."""
    port: int = 8000
    """Port to listen on; 0 for any free one."""
    token_file: Path | None = None
    """File with the token that clients must show; without one the variable VLA_TOKEN is read."""
    mapping: str = "tabletop"
    """What openpi clients call what they send: a built-in name or a YAML file."""
    workers: int = 1
    """Policy processes; clients take turns on them."""
    threads: int = 1
    """Compute threads of each policy process."""
    max_clients: int = 32
    """Connections at a time."""
    max_message_mb: float = 8.0
    """Largest message that a client may send."""
    infer_timeout_s: float = 10.0
    """A policy that takes longer is started again."""
    device: str = "cpu"
    """Device of the policy: cpu or cuda."""
    dtype: str = "bf16"
    """bf16 or fp32."""
    json: bool = False
    """Print one JSON object with the address once it serves, and one when it ends."""


@dataclass(frozen=True, slots=True)
class Address:
    """What ``vla serve --json`` prints once clients may connect."""

    url: str
    policy: str
    token_required: bool


def main(options: Options) -> int:
    """Serve until Ctrl-C or SIGTERM; both end it with 0."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("vla.serving.websockets").setLevel(logging.ERROR)
    policy = served_policy(options)
    server = ServerOptions(
        host=options.host,
        port=options.port,
        token=read_token(options.token_file),
        max_clients=options.max_clients,
        workers=options.workers,
        threads=options.threads,
        limits=WireLimits(max_bytes=round(options.max_message_mb * 1024 * 1024)),
        infer_timeout_s=options.infer_timeout_s,
    )
    asyncio.run(_serve(policy, server, json=options.json))
    return 0


def served_policy(options: Options) -> ServedPolicy:
    """What the options name, with its mapping.

    Raises:
        ValueError: A policy that cannot be served, or a mapping that cannot be read.
    """
    if options.policy in EXPERTS or is_remote(options.policy):
        raise ValueError(
            f"expected a model, found {options.policy!r}: experts need the simulation's true state, and a server is "
            f"served already; {unknown_name('model', options.policy, [COMPACT])}"
        )
    mapping = load_mapping(options.mapping).observation
    choice = PolicyChoice(options.policy, device=options.device, dtype=options.dtype, foreign=options.foreign)
    if foreign_kind(choice.name):
        policy = choose_foreign(choice.name, choice.foreign)
        config = policy.configure(default_config())
        policy.check(config)
        factory = policy.factory(config, options.device, options.dtype)
        # It may remember its episode, and noise that it draws is its own: each client has a process to itself.
        shown = f"{choice.name} ({policy.label})" if policy.label else choice.name
        return ServedPolicy(shown, factory, mapping, weights_hash(policy.weights))
    folder = choice.folder
    factory = policy_factory(
        COMPACT, weights=str(folder), device=options.device, dtype=options.dtype, threads=options.threads
    )
    weights = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return ServedPolicy(options.policy, factory, mapping, weights, stateless=True)


async def _serve(policy: ServedPolicy, options: ServerOptions, *, json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: its event loop takes no signal handlers
            loop.add_signal_handler(number, stop.set)
    console.print(f"loading {policy.name} ...")
    async with running(policy, options) as server:
        url = f"ws://{options.host}:{server.port}"
        access = "token required" if options.token else "no token: this machine only"
        console.print(f"serving {policy.name} on {url} ({access}); Ctrl-C ends it", highlight=False)
        if not is_loopback(options.host):
            console.print("[yellow]pictures, commands and token are not encrypted: use a tunnel or a TLS proxy[/]")
        if json:
            print_json(Address(url, policy.name, bool(options.token)))
        await stop.wait()
