"""Policies by name for rollouts: the scripted expert in this process, models in a process of their own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from controllers.executor import ExecutorOptions
from controllers.names import nearest_name_hint
from controllers.protocols import PolicyClient
from controllers.types import ActionChunk, Observation
from episodes.manifest import PolicyIdentity
from sim.assembly import SimCell
from sim.foreign import (
    ANSWER_TIMEOUT_S,
    START_TIMEOUT_S,
    ForeignAccess,
    ForeignSource,
    choose_foreign,
    declared_stack,
    foreign_kind,
)
from sim.remote import RemoteAccess, RemoteSource, is_remote
from sim.rollout import ExpertSource, PolicySource
from sim.stack import StackConfig
from vla.catalog import DEFAULT_COMPACT_WEIGHTS, policy_factory
from vla.compact.config import CompactConfig
from vla.compact.preprocess import check_picture
from vla.process import PolicyFactory, PolicyProcess, ProcessMode, RestartOptions, SupervisedPolicy
from vla.process.timing import RequestTiming

EXPERT = "expert"
BLIND_EXPERT = "blind_expert"
EXPERTS = (EXPERT, BLIND_EXPERT)
COMPACT = "compact"
WEIGHTS_FILE = "model.safetensors"
OBSERVATION_BYTES = 32 << 20  # of foreign policies, whose cameras may be large


def policy_names() -> tuple[str, ...]:
    """Names that :class:`PolicyChoice` knows; a path to a policy folder works too."""
    return (*EXPERTS, COMPACT)


@dataclass(frozen=True)
class Supervision:
    """How a model's process runs beside a control loop in real time.

    Attributes:
        answer_timeout_s: Longest inference; by default as long as the executor takes a chunk for fresh.
        heartbeat_timeout_s: Longest time without a sign of life.
        niceness: Added to the niceness of the process.
        cpus: Processors that it may run on; none given: any.
        restarts: When and how soon it is restarted.
    """

    answer_timeout_s: float = ExecutorOptions().max_chunk_age_s
    heartbeat_timeout_s: float = 1.0
    niceness: int = 0
    cpus: tuple[int, ...] = ()
    restarts: RestartOptions = RestartOptions()


@dataclass(frozen=True)
class PolicyChoice:
    """Which policy acts; a picklable factory of :class:`~sim.rollout.PolicySource`.

    Attributes:
        name: ``expert``, which plans around obstacles, ``blind_expert``, which does not know of them, ``compact``, the
            path of a policy folder, another project's policy (``lerobot:PATH``, ``rt2:PATH``, ``openvla:PATH``,
            ``openvla-oft:PATH``), or the address of a policy server, ``ws://host:port``.
        device: Device of a model, ``cpu`` or ``cuda``.
        dtype: ``bf16``, ``fp16`` or ``fp32``.
        threads: Torch threads of the model's process.
        mode: When the model's client answers: at the request (lock-step) or later (real time).
        remote: How to talk to a policy server.
        foreign: How to run another project's policy.
        supervision: In real time: deadlines of the model's process, and when it is restarted.
        doubt_samples: Sampled decodes that the compact VLA compares each chunk with, 0 for none.
    """

    name: str = COMPACT
    device: str = "cpu"
    dtype: str = "bf16"
    threads: int = 1
    mode: ProcessMode = ProcessMode.LOCK_STEP
    remote: RemoteAccess = field(default_factory=RemoteAccess)
    foreign: ForeignAccess = ForeignAccess()
    supervision: Supervision = Supervision()
    doubt_samples: int = 0

    def __post_init__(self) -> None:
        """Refuse a policy that does not exist before anything starts.

        Raises:
            ValueError: Neither a name nor a policy folder, or a server or a foreign policy whose files are no good.
        """
        if is_remote(self.name):
            self.remote.check(self.name)
            return
        if foreign_kind(self.name):
            choose_foreign(self.name, self.foreign)
            return
        if self.name not in EXPERTS and not (self.folder / WEIGHTS_FILE).is_file():
            if self.name in policy_names():
                raise ValueError(f"the weights of {self.name!r} are missing: expected {self.folder / WEIGHTS_FILE}")
            names = policy_names()
            raise ValueError(
                f"unknown policy {self.name!r}: expected one of {', '.join(names)}, a folder that holds "
                f"{WEIGHTS_FILE}, lerobot:PATH, "
                f"rt2:PATH, openvla:PATH, openvla-oft:PATH, or ws://host:port{nearest_name_hint(self.name, names)}"
            )

    @property
    def folder(self) -> Path:
        """Folder of a model's weights."""
        return DEFAULT_COMPACT_WEIGHTS if self.name == COMPACT else Path(self.name)

    def configure(self, config: StackConfig) -> StackConfig:
        """The stack as the policy needs it: a foreign policy's mapping declares actions, tokenizer and cameras.

        A server may serve a foreign policy; its mapping says here, too, what the stack has to be.
        """
        if foreign_kind(self.name):
            return choose_foreign(self.name, self.foreign).configure(config)
        if is_remote(self.name) and self.foreign.policy_mapping:
            return declared_stack(self.foreign.declaration, config)
        return config

    def check_foreign(self, config: StackConfig) -> None:
        """Refuse a stack that a foreign policy does not fit; nothing to do for policies of our own.

        Raises:
            ValueError: Lists every difference with what was expected, what was found and what to change.
        """
        if foreign_kind(self.name):
            choose_foreign(self.name, self.foreign).check(config)

    def model(self) -> CompactSource | RemoteSource | ForeignSource:
        """Build the source of a model, which can be asked without an episode.

        Raises:
            ValueError: An expert, which needs one.
        """
        if is_remote(self.name):
            return RemoteSource(self.name, self.remote, self.mode)
        if foreign_kind(self.name):
            policy = choose_foreign(self.name, self.foreign)
            return ForeignSource(self.name, policy, self._foreign_client, self.device, self.dtype)
        if self.name in EXPERTS:
            raise ValueError(f"expected a model, found {self.name!r}, which sees the simulation's true state")
        return CompactSource(self)

    def _foreign_client(self, factory: PolicyFactory) -> PolicyProcess | SupervisedPolicy:
        if self.mode is ProcessMode.ASYNCHRONOUS:
            return supervised_client(factory, self)
        return PolicyProcess(
            factory,
            self.mode,
            timeout_s=ANSWER_TIMEOUT_S,
            start_timeout_s=START_TIMEOUT_S,
            threads=self.threads,
            observation_bytes=OBSERVATION_BYTES,
        )

    def __call__(self) -> PolicySource:
        """Build the source; a model's process starts here."""
        return ExpertSource(blind=self.name == BLIND_EXPERT) if self.name in EXPERTS else self.model()


def supervised_client(factory: PolicyFactory, choice: PolicyChoice) -> SupervisedPolicy:
    """A client for real time; its process is restarted when it fails."""
    supervision = choice.supervision

    def build(first_chunk_id: int) -> PolicyProcess:
        return PolicyProcess(
            factory,
            ProcessMode.ASYNCHRONOUS,
            timeout_s=supervision.answer_timeout_s,
            threads=choice.threads,
            niceness=supervision.niceness,
            cpus=supervision.cpus,
            heartbeat_timeout_s=supervision.heartbeat_timeout_s,
            first_chunk_id=first_chunk_id,
            observation_bytes=OBSERVATION_BYTES,
            start_timeout_s=START_TIMEOUT_S,
        )

    return SupervisedPolicy(build, supervision.restarts)


class CompactSource:
    """The compact VLA in a process of its own, kept between episodes."""

    def __init__(self, choice: PolicyChoice) -> None:
        """Start the process and wait until it is warm."""
        weights = (choice.folder / WEIGHTS_FILE).read_bytes()
        self.identity = PolicyIdentity(choice.name, hashlib.sha256(weights).hexdigest())
        self._config = CompactConfig.from_json(json.loads((choice.folder / "config.json").read_text()))
        factory = policy_factory(
            COMPACT,
            weights=str(choice.folder),
            device=choice.device,
            dtype=choice.dtype,
            threads=choice.threads,
            doubt_samples=choice.doubt_samples,
        )
        self._client = (
            supervised_client(factory, choice)
            if choice.mode is ProcessMode.ASYNCHRONOUS
            else (PolicyProcess(factory, choice.mode, threads=choice.threads))
        )
        self._client.start()

    @property
    def timings(self) -> tuple[RequestTiming, ...]:
        """Where the time of the newest requests went."""
        return tuple(self._client.timings)

    def check(self, config: StackConfig) -> None:
        """Refuse a stack that decodes other tokens than the policy emits.

        Raises:
            ValueError: Another action spec or tokenizer, or no cameras.
        """
        if self._client.spec.hash != config.action_spec.hash:
            raise ValueError(
                f"the policy was trained for action spec {self._client.spec.hash}, the stack executes "
                f"{config.action_spec.hash}; use the stack that it was trained on, or train it again"
            )
        if self._client.tokenizer_id != config.tokenizer_id:
            raise ValueError(
                f"the policy emits tokens of {self._client.tokenizer_id!r}, the stack decodes "
                f"{config.tokenizer_id!r}; they must be the same"
            )
        if not config.cameras:
            raise ValueError("the policy needs pictures, but the stack has no cameras")
        for camera in self._config.cameras:
            if camera not in config.cameras:
                raise ValueError(
                    f"the policy needs camera {camera!r}, the stack has: {', '.join(sorted(config.cameras))}"
                )
            check_picture(camera, config.cameras[camera], self._config.image_size)

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        """The process itself, with the past episode forgotten."""
        self._client.reset()
        return self._client

    def ask(self, observation: Observation) -> ActionChunk:
        """The chunk for one observation, outside any episode; in lock-step only.

        Raises:
            PolicyInferenceError: The policy refused it.
        """
        self._client.request(observation)
        (arrival,) = self._client.poll()
        return arrival.chunk

    def close(self) -> None:
        """End the process."""
        self._client.close()
