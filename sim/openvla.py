"""``openvla:PATH``: an OpenVLA checkpoint, which brings its own action spec and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from controllers.names import unknown_name
from controllers.types import ActionSpec
from sim.stack import StackConfig
from vla.catalog import policy_factory
from vla.openvla.oft.declared import is_oft
from vla.openvla.published import CheckpointConfig, CheckpointError, action_spec, read_config, text_vocabulary
from vla.openvla.speed import InferenceOptions
from vla.preflight.checks import compare
from vla.preflight.contract import contract_of_spec
from vla.preflight.findings import PreflightError
from vla.process import PolicyFactory
from vla.tokenizers import TokenConvention, UniformBinTokenizer

OPENVLA = "openvla"


@dataclass(frozen=True)
class OpenVLAChoice:
    """An OpenVLA checkpoint and what it cannot know of itself.

    Attributes:
        folder: The checkpoint.
        config: What its files say.
        unnorm_key: Data set whose statistics un-normalize.
        camera: Which camera the model sees.
        rate_hz: Actions per second of that data set; 0 for the stack's.
        center_crop: Share of the picture's area that is kept around the middle; None for all.
        inference: What is done for speed.
    """

    folder: Path
    config: CheckpointConfig
    unnorm_key: str
    camera: str
    rate_hz: int
    center_crop: float | None = None
    inference: InferenceOptions = InferenceOptions()

    @classmethod
    def read(
        cls,
        folder: Path,
        unnorm_key: str,
        camera: str,
        rate_hz: int,
        center_crop: float | None = None,
        inference: InferenceOptions | None = None,
    ) -> Self:
        """Read what lies beside the weights.

        Raises:
            CheckpointError: The folder is damaged, is OpenVLA-OFT's, or has no such data set.
        """
        config = read_config(folder)
        if is_oft(folder):
            raise CheckpointError(
                f"{folder}: expected an OpenVLA checkpoint, found files of OpenVLA-OFT; choose openvla-oft:{folder}"
            )
        config.statistics_of(unnorm_key)
        if center_crop is not None and not 0.0 < center_crop <= 1.0:
            raise CheckpointError(f"expected a share of the area in (0, 1] as centre crop, found {center_crop}")
        return cls(folder, config, unnorm_key, camera, rate_hz, center_crop, inference or InferenceOptions())

    @property
    def weights(self) -> Path:
        """The folder of its weights."""
        return self.folder

    @property
    def label(self) -> str:
        """What is done for speed, for the log."""
        return self.inference.label

    def configure(self, config: StackConfig) -> StackConfig:
        """The stack with the checkpoint's action spec, one row a chunk, and its tokenizer."""
        return replace(
            config,
            action_spec=self._spec(config),
            tokenizer_id=self._tokenizer_id(),
            tokenizer_definition="",
            executor=replace(config.executor, execution_horizon=1),
        )

    def check(self, config: StackConfig) -> None:
        """Compare the checkpoint's contract with the stack's.

        Raises:
            ValueError: No such camera.
            PreflightError: Lists every difference.
        """
        if self.camera not in config.cameras:
            raise ValueError(f"--policy-camera: {unknown_name('camera', self.camera, config.cameras)}")
        own = contract_of_spec(str(self.folder), self._spec(config), self._tokenizer_id(), {})
        findings = compare(own, contract_of_spec("the stack", config.action_spec, config.tokenizer_id, {}))
        if findings:
            raise PreflightError(f"{OPENVLA}:{self.folder}", findings)

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        """How it is built.

        Raises:
            CheckpointError: The device cannot do what is to be done for speed.
        """
        self.inference.check_device(device)
        return policy_factory(
            OPENVLA,
            folder=str(self.folder),
            unnorm_key=self.unnorm_key,
            rate_hz=config.action_spec.rate_hz,
            camera=self.camera,
            center_crop=self.center_crop,
            device=device,
            dtype=dtype,
            inference=self.inference,
        )

    def _spec(self, config: StackConfig) -> ActionSpec:
        return action_spec(self.config.statistics_of(self.unnorm_key), self.rate_hz or config.action_spec.rate_hz)

    def _tokenizer_id(self) -> str:
        return openvla_tokenizer_id(self.folder, self.config)


def openvla_tokenizer_id(folder: Path, config: CheckpointConfig) -> str:
    """Identity of the tokenizer of a checkpoint that writes action tokens.

    Raises:
        CheckpointError: There is no embedding of words.
    """
    vocabulary = text_vocabulary(folder, config)
    return UniformBinTokenizer(config.action_bins - 1, TokenConvention.OPENVLA, vocabulary).tokenizer_id
