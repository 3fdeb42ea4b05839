"""``openvla-oft:PATH``: an OpenVLA-OFT checkpoint, and what has to be said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from controllers.names import unknown_name
from controllers.robot import load_robot
from controllers.types import ActionSpec
from sim.openvla import openvla_tokenizer_id
from sim.stack import StackConfig
from vla.catalog import policy_factory
from vla.openvla.oft.declared import (
    L1_TOKENIZER,
    ActionHead,
    OFTDeclaration,
    find_components,
    oft_spec,
)
from vla.openvla.oft.state import check_state, proprio_statistics
from vla.openvla.published import CheckpointConfig, read_config
from vla.openvla.speed import InferenceOptions
from vla.preflight.checks import compare
from vla.preflight.contract import contract_of_spec
from vla.preflight.findings import PreflightError
from vla.process import PolicyFactory

OPENVLA_OFT = "openvla-oft"


@dataclass(frozen=True)
class OFTChoice:
    """An OpenVLA-OFT checkpoint and how it was trained.

    Attributes:
        folder: The checkpoint.
        config: What its files say.
        declaration: What they do not say; its rate is 0 for the stack's.
        inference: What is done for speed.
    """

    folder: Path
    config: CheckpointConfig
    declaration: OFTDeclaration
    inference: InferenceOptions = InferenceOptions()

    @classmethod
    def read(cls, folder: Path, declaration: OFTDeclaration, inference: InferenceOptions | None = None) -> Self:
        """Read what lies beside the weights.

        Raises:
            CheckpointError: The folder is damaged, or the declaration does not fit it.
        """
        inference = inference or InferenceOptions()
        inference.check_one_pass()
        config = read_config(folder)
        config.statistics_of(declaration.statistics_key)
        find_components(folder, declaration)
        if declaration.state:
            proprio_statistics(folder, declaration.statistics_key)
        return cls(folder, config, declaration, inference)

    @property
    def weights(self) -> Path:
        """The folder of its weights."""
        return self.folder

    @property
    def label(self) -> str:
        """What is done for speed, for the log."""
        return self.inference.label

    def configure(self, config: StackConfig) -> StackConfig:
        """The stack with the checkpoint's action spec and tokenizer, which executes no more rows than there are."""
        rows = min(config.executor.execution_horizon, self.declaration.horizon)
        return replace(
            config,
            action_spec=self._spec(config),
            tokenizer_id=self._tokenizer_id(),
            tokenizer_definition="",
            executor=replace(config.executor, execution_horizon=rows),
        )

    def check(self, config: StackConfig) -> None:
        """Compare cameras, state and the checkpoint's contract with the stack's.

        Raises:
            ValueError: No such camera, or a state of another size.
            PreflightError: Lists every difference.
        """
        for camera in self.declaration.cameras:
            if camera not in config.cameras:
                option = "--policy-camera" if camera == self.declaration.cameras[0] else "--oft-wrist-cameras"
                raise ValueError(f"{option}: {unknown_name('camera', camera, config.cameras)}")
        if self.declaration.state:
            statistics = proprio_statistics(self.folder, self.declaration.statistics_key)
            check_state(statistics, self.declaration.state, len(load_robot(config.robot).joint_names))
        own = contract_of_spec(str(self.folder), self._spec(config), self._tokenizer_id(), {})
        findings = compare(own, contract_of_spec("the stack", config.action_spec, config.tokenizer_id, {}))
        if findings:
            raise PreflightError(f"{OPENVLA_OFT}:{self.folder}", findings)

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        """How it is built.

        Raises:
            CheckpointError: The device cannot do what is to be done for speed.
        """
        self.inference.check_device(device)
        return policy_factory(
            OPENVLA_OFT,
            folder=str(self.folder),
            declaration=self._at_rate(config),
            device=device,
            dtype=dtype,
            inference=self.inference,
        )

    def _at_rate(self, config: StackConfig) -> OFTDeclaration:
        return replace(self.declaration, rate_hz=self.declaration.rate_hz or config.action_spec.rate_hz)

    def _spec(self, config: StackConfig) -> ActionSpec:
        return oft_spec(self.config.statistics_of(self.declaration.statistics_key), self._at_rate(config))

    def _tokenizer_id(self) -> str:
        tokens = self.declaration.head is ActionHead.TOKENS
        return openvla_tokenizer_id(self.folder, self.config) if tokens else L1_TOKENIZER
