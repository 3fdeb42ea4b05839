"""Other people's policies, each in a process of its own, as sources of chunks for rollouts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from controllers.protocols import PolicyClient
from controllers.types import ActionChunk, Observation
from episodes.manifest import PolicyIdentity
from sim.assembly import SimCell
from sim.openvla import OPENVLA, OpenVLAChoice
from sim.openvla_oft import OPENVLA_OFT, OFTChoice
from sim.stack import StackConfig
from vla.catalog import policy_factory
from vla.foreign.declaration import ForeignDeclaration, load_declaration
from vla.lerobot_policy.folder import LeRobotFolder, check_fit, read_folder
from vla.openvla.oft.declared import ActionHead, OFTDeclaration, state_parts
from vla.openvla.speed import InferenceOptions, Layout, Weights
from vla.process import PolicyFactory, PolicyProcess, SupervisedPolicy
from vla.process.account import BoundaryAccount
from vla.process.timing import RequestTiming
from vla.rt2.grammar import bin_ranges
from vla.serving.mapping import ActionMapping

_log = logging.getLogger("vla.foreign")
LEROBOT = "lerobot"
RT2 = "rt2"
KINDS = (LEROBOT, RT2, OPENVLA, OPENVLA_OFT)
ANSWER_TIMEOUT_S = 120.0  # in lock-step: a large model on a processor takes long, and nothing waits for it
START_TIMEOUT_S = 600.0  # weights of several billion parameters are read from a disk


def foreign_kind(policy: str) -> str:
    """``lerobot`` of ``lerobot:PATH``; empty for policies of our own."""
    kind, colon, _ = policy.partition(":")
    return kind if colon and kind in KINDS else ""


@dataclass(frozen=True)
class ForeignAccess:
    """How another project's policy is run."""

    policy_mapping: str = ""
    """For lerobot:PATH and rt2:PATH: what inputs and actions mean; a built-in name or a YAML file (docs/models.md)."""

    unnorm_key: str = ""
    """For openvla:PATH and openvla-oft:PATH: the data set whose statistics un-normalize the actions."""
    policy_camera: str = "workspace"
    """For openvla:PATH and openvla-oft:PATH: the camera that the model sees."""
    policy_rate_hz: int = 0
    """For openvla:PATH and openvla-oft:PATH: actions a second of that data set; 0 for the stack's own."""
    openvla_center_crop: float = 1.0
    """For openvla:PATH: share of the picture's area that is kept around the middle; 0.9 if trained with crops."""
    oft_head: Literal["l1", "tokens"] = "l1"
    """For openvla-oft:PATH: the head that it was trained with."""
    oft_horizon: int = 8
    """For openvla-oft:PATH: rows of its chunks."""
    oft_wrist_cameras: tuple[str, ...] = ()
    """For openvla-oft:PATH: the cameras that it sees besides --policy-camera, in its order."""
    oft_state: tuple[str, ...] = ()
    """For openvla-oft:PATH: the parts of the state that it sees, in its order; for LIBERO ee_position ee_axis_angle
    gripper_fingers."""
    oft_origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """For openvla-oft:PATH: where the robot's base lies in the frame of the data set's positions, m."""
    oft_film: bool = False
    """For openvla-oft:PATH: it was trained with FiLM."""
    oft_units: tuple[float, float] = (1.0, 1.0)
    """For openvla-oft:PATH: one unit of the data set's translations in m, and of its rotations in rad; for LIBERO
    0.05 0.5."""
    oft_overshoot: float = 0.1
    """For openvla-oft:PATH: share of an action's range by which the L1 head may miss it; farther refuses the chunk."""
    oft_center_crop: float = 1.0
    """For openvla-oft:PATH: share of each picture's area that is kept around the middle; 0.9 if trained with crops."""
    fast_static_cache: bool = False
    """For openvla:PATH and openvla-oft:PATH: a lean pass over the language model, with one cache that is allocated once
    (docs/models.md, "Fast inference", says what this and the next ones pay and cost)."""
    fast_action_head: bool = False
    """For the same: compute the scores of action tokens only."""
    fast_speculate: bool = False
    """For openvla:PATH: guess that the action stays as it was, and check it in one pass."""
    fast_cuda_graphs: bool = False
    """For openvla:PATH: replay the pass of one token as a CUDA graph; needs a CUDA device."""
    fast_weights: Literal["full", "int8", "int4", "fp8"] = "full"
    """For openvla:PATH and openvla-oft:PATH: bits of the language model's matrices; int4 needs the processor, fp8 a
    CUDA device. Changes actions."""
    fast_prune_layer: int = 0
    """For the same: drop patches after so many layers of the language model; 0 for never. Changes actions."""
    fast_keep: float = 1.0
    """For the same: share of the patches that --fast-prune-layer keeps."""
    fast_reuse: float = 0.0
    """For the same: compute patches again only if they changed by so many 8-bit levels; 0 for always. Changes
    actions."""
    fast_layout: Literal["image_first", "text_first"] = "image_first"
    """For openvla:PATH: what stood first when it was trained; published checkpoints have the picture first. Text first,
    what was computed of the prompt is kept."""

    @property
    def declaration(self) -> ForeignDeclaration:
        """What the mapping says.

        Raises:
            MappingError: None, or one that cannot be read.
        """
        return load_declaration(self.policy_mapping)

    @property
    def inference(self) -> InferenceOptions:
        """What is done for speed.

        Raises:
            CheckpointError: Options that cannot be joined.
        """
        return InferenceOptions(
            static_cache=self.fast_static_cache,
            action_head=self.fast_action_head,
            speculate=self.fast_speculate,
            cuda_graphs=self.fast_cuda_graphs,
            weights=Weights(self.fast_weights),
            prune_layer=self.fast_prune_layer,
            keep=self.fast_keep,
            reuse=self.fast_reuse,
            layout=Layout(self.fast_layout),
        )


class ForeignPolicy(Protocol):
    """One kind of foreign policy, bound to its folder."""

    @property
    def weights(self) -> Path:
        """The file or folder of its weights."""
        ...

    @property
    def label(self) -> str:
        """What the log says of it besides its name; empty for nothing."""
        ...

    def configure(self, config: StackConfig) -> StackConfig:
        """The stack as the policy needs it."""
        ...

    def check(self, config: StackConfig) -> None:
        """Refuse a stack that it does not fit, before anything starts."""
        ...

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        """How it is built for a stack, in its own process."""
        ...


def declared_stack(declaration: ForeignDeclaration, config: StackConfig) -> StackConfig:
    """The stack as a mapping declares it; what it does not mention stays."""
    stack = declaration.stack
    config = replace(
        config,
        action_spec=stack.action_spec or config.action_spec,
        tokenizer_id=stack.tokenizer_id or config.tokenizer_id,
        tokenizer_definition="" if stack.tokenizer_id else config.tokenizer_definition,
        cameras={**config.cameras, **stack.cameras},
    )
    if stack.execution_horizon:
        config = replace(config, executor=replace(config.executor, execution_horizon=stack.execution_horizon))
    return config


@dataclass(frozen=True)
class LeRobotChoice:
    """``lerobot:PATH``.

    Attributes:
        folder: What the policy's files say.
        declaration: What its entries mean.
    """

    folder: LeRobotFolder
    declaration: ForeignDeclaration

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.folder.path / "model.safetensors"

    @property
    def label(self) -> str:
        """Nothing but its name."""
        return ""

    def configure(self, config: StackConfig) -> StackConfig:
        """The stack as the mapping declares it."""
        return declared_stack(self.declaration, config)

    def check(self, config: StackConfig) -> None:
        """Compare features, statistics, dimensions and rows.

        Raises:
            ValueError: Lists every difference.
        """
        check_fit(self.folder, self.declaration, config.action_spec, config.cameras, config.executor.execution_horizon)

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        """It keeps its own precision, so that ``dtype`` says nothing to it."""
        return policy_factory(
            LEROBOT,
            folder=str(self.folder.path),
            declaration=self.declaration,
            spec=config.action_spec.to_json(),
            tokenizer_id=config.tokenizer_id,
            device=device,
        )


@dataclass(frozen=True)
class TextChoice:
    """``rt2:PATH``: an image-text model that writes integers.

    Attributes:
        folder: Of the model.
        declaration: Its pictures, prompt and text.
    """

    folder: Path
    declaration: ForeignDeclaration

    @property
    def weights(self) -> Path:
        """The folder of its weights."""
        return self.folder

    @property
    def label(self) -> str:
        """Nothing but its name."""
        return ""

    def configure(self, config: StackConfig) -> StackConfig:
        """The stack as the mapping declares it."""
        return declared_stack(self.declaration, config)

    def check(self, config: StackConfig) -> None:
        """Compare pictures and tokenizer.

        Raises:
            ValueError: Says what was expected and found.
        """
        self.declaration.check_cameras(config.cameras)
        bin_ranges(config.tokenizer_id, config.action_spec)
        if not self.declaration.observation.images:
            raise ValueError("mapping: expected at least one picture for an image-text model, found none")
        if self.declaration.observation.state or self.declaration.actions != ActionMapping():
            raise ValueError(
                "mapping: expected neither state nor actions for a model that reads pictures and words and writes the "
                "tokens itself, found some; drop them"
            )

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        """How it is built."""
        return policy_factory(
            RT2,
            folder=str(self.folder),
            declaration=self.declaration,
            spec=config.action_spec.to_json(),
            tokenizer_id=config.tokenizer_id,
            device=device,
            dtype=dtype,
        )


@lru_cache(maxsize=8)
def choose_foreign(policy: str, access: ForeignAccess) -> ForeignPolicy:
    """The foreign policy that a name means; its files are read once.

    Raises:
        ValueError: Its folder or its mapping is no good; says what was expected and found.
    """
    return _CHOICES[foreign_kind(policy)](Path(policy.partition(":")[2]), access)


def _lerobot(path: Path, access: ForeignAccess) -> ForeignPolicy:
    return LeRobotChoice(read_folder(path), access.declaration)


def _rt2(path: Path, access: ForeignAccess) -> ForeignPolicy:
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise ValueError(
            f"expected the folder of an image-text model with config.json and safetensors, found none at {path}"
        )
    return TextChoice(path, access.declaration)


def _openvla(path: Path, access: ForeignAccess) -> ForeignPolicy:
    crop = None if access.openvla_center_crop == 1.0 else access.openvla_center_crop
    return OpenVLAChoice.read(
        path, access.unnorm_key, access.policy_camera, access.policy_rate_hz, crop, access.inference
    )


def _openvla_oft(path: Path, access: ForeignAccess) -> ForeignPolicy:
    declaration = OFTDeclaration(
        statistics_key=access.unnorm_key,
        rate_hz=access.policy_rate_hz,
        cameras=(access.policy_camera, *access.oft_wrist_cameras),
        head=ActionHead(access.oft_head),
        horizon=access.oft_horizon,
        state=state_parts(access.oft_state),
        origin=access.oft_origin,
        film=access.oft_film,
        units=access.oft_units,
        overshoot=access.oft_overshoot,
        center_crop=None if access.oft_center_crop == 1.0 else access.oft_center_crop,
    )
    return OFTChoice.read(path, declaration, access.inference)


_CHOICES: dict[str, Callable[[Path, ForeignAccess], ForeignPolicy]] = {
    LEROBOT: _lerobot,
    RT2: _rt2,
    OPENVLA: _openvla,
    OPENVLA_OFT: _openvla_oft,
}


class ForeignSource:
    """A foreign policy in a process of its own, kept between episodes."""

    def __init__(
        self,
        name: str,
        policy: ForeignPolicy,
        client: Callable[[PolicyFactory], PolicyProcess | SupervisedPolicy],
        device: str,
        dtype: str,
    ) -> None:
        """Keep the settings; :meth:`check` starts the process, once it knows the stack.

        Args:
            name: As it was chosen, for the log.
            policy: The policy.
            client: Makes a client that has not been started.
            device: ``cpu`` or ``cuda``.
            dtype: ``bf16``, ``fp16`` or ``fp32``.
        """
        self._policy, self._make, self._device, self._dtype = policy, client, device, dtype
        shown = f"{name} ({policy.label})" if policy.label else name
        self.identity = PolicyIdentity(shown, weights_hash(policy.weights))
        self._client: PolicyProcess | SupervisedPolicy | None = None
        self._config: StackConfig | None = None

    @property
    def account(self) -> BoundaryAccount | None:
        """What discretizing its actions cost so far, None for a policy that writes tokens itself."""
        return None if self._client is None else self._client.account

    @property
    def timings(self) -> tuple[RequestTiming, ...]:
        """Where the time of the newest requests went, empty for a policy that does not say so."""
        return () if self._client is None else tuple(self._client.timings)

    def check(self, config: StackConfig) -> None:
        """Refuse a stack that it does not fit, and start its process.

        Raises:
            ValueError: Lists every difference.
            PolicyStartError: It could not be loaded.
        """
        if self._client is not None and self._config == config:
            return
        self._policy.check(config)
        if not config.cameras:
            raise ValueError("the policy needs pictures, but the stack has no cameras")
        self.close()
        client = self._make(self._policy.factory(config, self._device, self._dtype))
        client.start()
        self._client, self._config = client, config

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        """The process itself, with the past episode forgotten."""
        client = self._started()
        client.reset()
        return client

    def ask(self, observation: Observation) -> ActionChunk:
        """The chunk for one observation, outside any episode; in lock-step only.

        Raises:
            PolicyInferenceError: The policy refused it.
        """
        client = self._started()
        client.request(observation)
        (arrival,) = client.poll()
        return arrival.chunk

    def close(self) -> None:
        """End the process; what was not within the range is logged."""
        client, self._client = self._client, None
        if client is None:
            return
        account = client.account
        client.close()
        if account is not None and (account.refused or any(account.outside)):
            _log.warning("%s: %s", self.identity.name, "; ".join(line.strip() for line in account.lines()))

    def _started(self) -> PolicyProcess | SupervisedPolicy:
        if self._client is None:
            raise RuntimeError("the policy was not started yet: call check first")
        return self._client


def weights_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's safetensors and then its components beside them, in the order of names."""
    digest = hashlib.sha256()
    found = [*sorted(path.glob("*.safetensors")), *sorted(path.glob("*--*checkpoint.pt"))]
    for file in found if path.is_dir() else [path]:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
