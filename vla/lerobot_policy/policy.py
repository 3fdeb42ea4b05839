"""A LeRobot policy behind the ``Policy`` protocol: its own processors around it, tokens at the boundary."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from controllers.types import ActionChunk, ActionSpec, FloatArray, Observation
from vla.foreign.boundary import Boundary, RefusedActionsError
from vla.foreign.declaration import ForeignDeclaration
from vla.lerobot_policy.fast import refuse_malformed
from vla.lerobot_policy.folder import ACTION, PREPROCESSOR, TASK, WEIGHTS, LeRobotFolder, LeRobotFolderError
from vla.process.account import BoundaryAccount
from vla.serving.fields import MappingError

_PROBED = 8  # tensors of the file that are compared with the model's
_EXTRA = "LeRobot is not installed; install the extra: pip install 'vla-stack[lerobot]'"


@dataclass(frozen=True)
class LeRobotOptions:
    """How a policy is run.

    Attributes:
        spec: Contract of the stack's actions.
        tokenizer_id: Tokenizer of the boundary.
        device: ``cpu`` or ``cuda``.
        seed: Of the noise that sampling policies start from; the same in every episode.
    """

    spec: ActionSpec
    tokenizer_id: str
    device: str = "cpu"
    seed: int = 0


class LeRobotPolicy:
    """Implements :class:`controllers.protocols.Policy`; also ``Accounting``."""

    def __init__(self, folder: LeRobotFolder, declaration: ForeignDeclaration, options: LeRobotOptions) -> None:
        """Load weights and processors.

        Raises:
            LeRobotFolderError: LeRobot is missing or does not know the policy, or the weights do not fit it.
            MappingError: A tokenizer that will not do.
        """
        self._folder, self._declaration, self._options = folder, declaration, options
        self._boundary = Boundary(options.spec, options.tokenizer_id, declaration.out_of_range)
        self._policy = _load(folder, options.device)
        self._before, self._after = _processors(folder, self._policy, options.device)
        self._history: deque[tuple[int, dict[str, Any]]] = deque(maxlen=max(1, folder.n_obs_steps))
        self.reset()

    @property
    def spec(self) -> ActionSpec:
        """Contract of the actions it emits."""
        return self._boundary.spec

    @property
    def tokenizer_id(self) -> str:
        """Identity of the tokenizer of its chunks."""
        return self._boundary.tokenizer_id

    @property
    def account(self) -> BoundaryAccount:
        """What discretizing cost so far."""
        return self._boundary.account

    def reset(self) -> None:
        """Forget the episode, and start the noise of sampling policies again."""
        self._policy.reset()
        self._history.clear()
        torch.manual_seed(self._options.seed)

    def warm_up(self) -> None:
        """Ask once about nothing, so that what does not fit is found before the arm moves.

        Raises:
            MappingError: The prediction is of another shape than the configuration says.
        """
        batch: dict[str, Any] = {TASK: ["nothing"]}
        for key, feature in {**self._folder.pictures, **self._folder.vectors}.items():
            batch[key] = torch.zeros((1, *feature.shape), dtype=torch.float32)
        # A model that writes nonsense about nothing may write sense about something.
        with suppress(RefusedActionsError):
            self._read(self._predict(batch, 0))
        self.reset()

    def infer(self, observation: Observation) -> ActionChunk:
        """Emit a chunk for one observation, or a refusal with its reason."""
        try:
            batch = self._batch(observation)
            actions = self._read(self._predict(batch, observation.stamp_ns))
        except (RefusedActionsError, MappingError) as error:
            return self._boundary.refuse(str(error), observation)
        return self._boundary.chunk(actions, observation)

    def _batch(self, observation: Observation) -> dict[str, Any]:
        """LeRobot's names; pictures (1, 3, H, W) float32 in 0..1, vectors (1, n) float32, the words in a list.

        Raises:
            MappingError: The observation lacks a camera, has another number of joints, or a state that nobody knows.
        """
        message = self._declaration.observation.write(observation)
        pictures = self._folder.pictures
        batch: dict[str, Any] = {}
        for key, value in message.items():
            if key == TASK:
                batch[key] = [value]
                continue
            tensor = torch.from_numpy(np.array(value))
            if not torch.isfinite(tensor).all():
                raise MappingError(f"{key}: expected finite values, found {tensor.tolist()}")
            if key in pictures:
                tensor = tensor.permute(2, 0, 1).float() / 255.0
            batch[key] = tensor.unsqueeze(0).contiguous()
        return batch

    def _predict(self, batch: dict[str, Any], stamp_ns: int) -> FloatArray:
        """The (rows, dims) float32 actions, un-normalized."""
        ready = self._before(batch)
        if self._folder.n_obs_steps > 1:
            ready = self._with_history(ready, stamp_ns)
        with torch.inference_mode():
            chunk = self._policy.predict_action_chunk(ready)
        actions = self._after(chunk)
        return actions[0].float().cpu().numpy()

    def _with_history(self, ready: dict[str, Any], stamp_ns: int) -> dict[str, Any]:
        """Stack the last observations (1, n_obs_steps, ...); one that is not a row old is replaced by the next newer.

        That is what LeRobot does at the start of an episode. Its own queues are filled by ``select_action`` only,
        which answers one action at a time.
        """
        self._history.append((stamp_ns, ready))
        row_ns = 1e9 / self.spec.rate_hz
        chosen = [ready]
        for age in range(1, self._folder.n_obs_steps):
            wanted = stamp_ns - age * row_ns
            near = [seen for stamp, seen in self._history if abs(stamp - wanted) < 0.5 * row_ns]
            chosen.append(near[0] if near else chosen[-1])
        stacked = dict(ready)
        for key in self._folder.inputs:
            if isinstance(ready.get(key), Tensor):
                stacked[key] = torch.stack([seen[key] for seen in reversed(chosen)], dim=1)
        return stacked

    def _read(self, actions: FloatArray) -> FloatArray:
        return self._declaration.actions.read({ACTION: actions}, self.spec)


def _load(folder: LeRobotFolder, device: str) -> Any:
    try:
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class
    except ImportError as error:
        raise LeRobotFolderError(f"{_EXTRA} ({error})") from error
    try:
        config = PreTrainedConfig.from_pretrained(str(folder.path))
        kind = get_policy_class(config.type)
    except Exception as error:  # draccus has errors of its own
        raise LeRobotFolderError(f"{folder.path}: LeRobot cannot read the configuration: {error}") from error
    config.device = device
    # All weights are in the folder: nothing is to be fetched first only to be overwritten.
    for name, value in (("pretrained_backbone_weights", None), ("load_vlm_weights", False)):
        if hasattr(config, name):
            setattr(config, name, value)
    try:
        policy = cast(Any, kind).from_pretrained(str(folder.path), config=config, strict=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise LeRobotFolderError(f"{folder.path}: LeRobot cannot load the {folder.kind} policy: {error}") from error
    policy.to(device).eval()
    policy.requires_grad_(False)
    _check_loaded(folder, policy)
    if folder.kind == "pi0_fast":
        refuse_malformed(policy)
    return policy


def _check_loaded(folder: LeRobotFolder, policy: torch.nn.Module) -> None:
    """Some of LeRobot's loaders print a failure and go on, with random weights where there are none in the file."""
    own, path = policy.state_dict(), folder.path / WEIGHTS
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
        places = {name: name if name in own else f"model.{name}" for name in names}
        for number, (name, place) in enumerate(places.items()):
            if place not in own:
                raise LeRobotFolderError(
                    f"{path}: expected weights of this {folder.kind} configuration only, found {name!r}, too"
                )
            probed = number % max(1, len(names) // _PROBED) == 0
            if probed and not torch.equal(own[place].cpu(), file.get_tensor(name).to(own[place].dtype)):
                raise LeRobotFolderError(f"{path}: expected its weights in the model, found others in {name!r}")
    # Tied weights are in the file once; pi0-FAST's loader copies its head to its embedding.
    shared = {own[place].data_ptr() for place in places.values()}
    heads = [own[place] for place in places.values() if place.endswith("lm_head.weight")]
    for name in own.keys() - set(places.values()):
        copied = name.endswith("embed_tokens.weight") and any(torch.equal(own[name], head) for head in heads)
        if own[name].data_ptr() not in shared and not copied:
            raise LeRobotFolderError(
                f"{path}: expected weights for {name!r}, found none; the file is not of this {folder.kind} "
                "configuration, or was not saved whole"
            )


def _processors(folder: LeRobotFolder, policy: Any, device: str) -> tuple[Any, Any]:
    from lerobot.policies.factory import make_pre_post_processors

    steps = (folder.path / PREPROCESSOR).read_text(encoding="utf-8")
    overrides: dict[str, dict[str, Any]] = {}
    if '"device_processor"' in steps:
        overrides["device_processor"] = {"device": device}
    if '"action_tokenizer_processor"' in steps:
        # LeRobot does not save which text tokenizer this step takes, and would fetch another one by its default name.
        name = policy.config.text_tokenizer_name
        overrides["action_tokenizer_processor"] = {"paligemma_tokenizer_name": name}
    try:
        return make_pre_post_processors(policy.config, str(folder.path), preprocessor_overrides=overrides)
    except Exception as error:  # a step may fetch what is not there, with an error of any kind
        needed = f" (they load {', '.join(folder.tokenizers)})" if folder.tokenizers else ""
        raise LeRobotFolderError(
            f"{folder.path}: LeRobot cannot load the policy's processors{needed}: {error}"
        ) from error
