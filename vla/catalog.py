"""Policies by name. Light: torch is imported by the builder, in the process that builds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controllers.protocols import Policy
from controllers.types import ActionSpec
from vla.foreign.declaration import ForeignDeclaration
from vla.openvla.oft.declared import OFTDeclaration
from vla.openvla.speed import InferenceOptions
from vla.process import PolicyFactory

DEFAULT_COMPACT_WEIGHTS = Path(__file__).parent / "weights" / "compact"


def build_compact(
    weights: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "bf16",
    decoding: str = "mean_around_mode",
    threads: int = 1,
    doubt_samples: int = 0,
) -> Policy:
    """Load the compact model.

    Args:
        weights: Policy folder; None for the one that comes with the package.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16``, ``fp16`` or ``fp32``; ``bfloat16``, ``float16`` and ``float32`` are the same.
        decoding: ``mean_around_mode`` or ``mode``.
        threads: Torch threads of the process.
        doubt_samples: Sampled decodes to compare each chunk with; 0 for none.
    """
    from vla.compact.policy import CompactPolicy, Decoding

    folder = weights or DEFAULT_COMPACT_WEIGHTS
    return CompactPolicy.load(folder, device, dtype, Decoding(decoding), threads, doubt_samples)


def build_lerobot(
    folder: str,
    declaration: ForeignDeclaration,
    spec: Mapping[str, object],
    tokenizer_id: str,
    device: str = "cpu",
) -> Policy:
    """Load a policy that LeRobot trained.

    Args:
        folder: What LeRobot calls ``pretrained_model``.
        declaration: What its inputs and actions mean.
        spec: ``ActionSpec.to_json()`` of the stack.
        tokenizer_id: Tokenizer of the boundary.
        device: ``cpu`` or ``cuda``.

    Raises:
        LeRobotFolderError: The folder is damaged, or LeRobot cannot load it.
    """
    from vla.lerobot_policy.folder import read_folder
    from vla.lerobot_policy.policy import LeRobotOptions, LeRobotPolicy

    options = LeRobotOptions(ActionSpec.from_json(spec), tokenizer_id, device)
    return LeRobotPolicy(read_folder(folder), declaration, options)


def build_rt2(
    folder: str,
    declaration: ForeignDeclaration,
    spec: Mapping[str, object],
    tokenizer_id: str,
    device: str = "cpu",
    dtype: str = "bf16",
) -> Policy:
    """Load an image-text model that writes its actions as integers.

    Args:
        folder: Of a model that ``AutoModelForImageTextToText`` knows, with its processor.
        declaration: Its pictures and its text.
        spec: ``ActionSpec.to_json()`` of the stack.
        tokenizer_id: ``uniform-BINS/rt2``.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16``, ``fp16`` or ``fp32``.

    Raises:
        TextChunkError: The folder is none, or the model cannot write chunks.
    """
    from vla.rt2.policy import TextPolicy, TextPolicyOptions

    options = TextPolicyOptions(ActionSpec.from_json(spec), tokenizer_id, device, dtype)
    return TextPolicy.load(folder, declaration, options)


def build_openvla(
    folder: str,
    unnorm_key: str,
    rate_hz: int,
    camera: str,
    center_crop: float | None = None,
    device: str = "cpu",
    dtype: str = "bf16",
    inference: InferenceOptions | None = None,
) -> Policy:
    """Load an OpenVLA checkpoint.

    Args:
        folder: The published layout.
        unnorm_key: Data set whose statistics un-normalize.
        rate_hz: Actions per second of that data set.
        camera: Which camera the model sees.
        center_crop: Share of the picture's area that is kept, for models trained with random crops; None for all.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16`` or ``fp32``.
        inference: What is done for speed; None for nothing.

    Raises:
        CheckpointError: The folder is damaged, or the options do not fit it.
    """
    from vla.openvla.policy import OpenVLAOptions, OpenVLAPolicy

    options = OpenVLAOptions(
        statistics_key=unnorm_key,
        rate_hz=rate_hz,
        camera=camera,
        device=device,
        dtype=dtype,
        center_crop=center_crop,
        inference=inference or InferenceOptions(),
    )
    return OpenVLAPolicy.load(folder, options)


def build_openvla_oft(
    folder: str,
    declaration: OFTDeclaration,
    device: str = "cpu",
    dtype: str = "bf16",
    inference: InferenceOptions | None = None,
) -> Policy:
    """Load an OpenVLA-OFT checkpoint.

    Args:
        folder: The published layout.
        declaration: How it was trained.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16`` or ``fp32``.
        inference: What is done for speed; None for nothing.

    Raises:
        CheckpointError: The folder is damaged, or the declaration does not fit it.
    """
    from vla.openvla.oft.policy import load_oft_policy

    return load_oft_policy(folder, declaration, device=device, dtype=dtype, inference=inference)


_BUILDERS: dict[str, Callable[..., Policy]] = {
    "compact": build_compact,
    "lerobot": build_lerobot,
    "rt2": build_rt2,
    "openvla": build_openvla,
    "openvla-oft": build_openvla_oft,
}


def policy_names() -> tuple[str, ...]:
    """Names that :func:`build_policy` knows."""
    return tuple(_BUILDERS)


def build_policy(name: str, **options: Any) -> Policy:
    """Build a policy in this process.

    Raises:
        ValueError: No such policy; names the nearest.
        TypeError: An option that its builder does not have.
    """
    return _builder(name)(**options)


def policy_factory(name: str, **options: Any) -> PolicyFactory:
    """Describe how to build a policy, for :class:`vla.process.PolicyProcess`.

    Raises:
        ValueError: No such policy; names the nearest.
    """
    builder = _builder(name)
    return PolicyFactory(f"{builder.__module__}:{builder.__name__}", options, preload=("torch",))


def _builder(name: str) -> Callable[..., Policy]:
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown policy {name!r}{hint} (known: {', '.join(_BUILDERS)})")
    return _BUILDERS[name]
