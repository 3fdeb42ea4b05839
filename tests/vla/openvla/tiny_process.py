"""A tiny checkpoint in the policy process: its heads cannot be known from its sizes, and it has no tokenizer."""

from __future__ import annotations

from tests.vla.openvla.tiny import HEADS
from vla.openvla.policy import OpenVLAOptions, OpenVLAPolicy


def build(folder: str, unnorm_key: str, rate_hz: int, camera: str, device: str, dtype: str) -> OpenVLAPolicy:
    """What the policy process calls."""
    options = OpenVLAOptions(
        statistics_key=unnorm_key, rate_hz=rate_hz, camera=camera, device=device, dtype="fp32", heads=HEADS
    )
    return OpenVLAPolicy.load(folder, options, encode=lambda text: [1, *(3 + ord(letter) % 90 for letter in text)])
