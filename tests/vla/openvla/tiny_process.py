"""A tiny checkpoint in the policy process: its heads cannot be known from its sizes, and it has no tokenizer."""

from __future__ import annotations

from benchmarks.random_openvla import encode
from tests.vla.openvla.tiny import HEADS
from vla.openvla.oft.declared import OFTDeclaration
from vla.openvla.oft.policy import OFTRegressionPolicy, OFTTokenPolicy, load_oft_policy
from vla.openvla.policy import OpenVLAOptions, OpenVLAPolicy
from vla.openvla.speed import InferenceOptions


def build(
    folder: str,
    unnorm_key: str,
    rate_hz: int,
    camera: str,
    center_crop: float | None,
    device: str,
    dtype: str,
    inference: InferenceOptions,
) -> OpenVLAPolicy:
    """What the policy process calls."""
    options = OpenVLAOptions(
        statistics_key=unnorm_key,
        rate_hz=rate_hz,
        camera=camera,
        device=device,
        dtype="fp32",
        heads=HEADS,
        center_crop=center_crop,
        inference=inference,
    )
    return OpenVLAPolicy.load(folder, options, encode=encode)


def build_oft(
    folder: str, declaration: OFTDeclaration, device: str, dtype: str, inference: InferenceOptions
) -> OFTTokenPolicy | OFTRegressionPolicy:
    """The same for OpenVLA-OFT."""
    return load_oft_policy(
        folder, declaration, device=device, dtype="fp32", heads=HEADS, encode=encode, inference=inference
    )
