"""What a preflight reports: every difference with what was expected, what was found, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Check(Enum):
    """What was compared."""

    STATISTICS_PRESENT = "statistics_present"
    STATISTICS_SCALING = "statistics_scaling"
    STATISTICS_FINITE = "statistics_finite"
    STATISTICS_MASK = "statistics_mask"
    STATISTICS_VALUES = "statistics_values"
    DELTA_OR_ABSOLUTE = "delta_or_absolute"
    ACTION_SPACE = "action_space"
    FRAME = "frame"
    DIMENSIONS = "dimensions"
    UNITS = "units"
    BOUNDS = "bounds"
    ROTATION = "rotation"
    QUATERNION_ORDER = "quaternion_order"
    GRIPPER_POLARITY = "gripper_polarity"
    GRIPPER_RANGE = "gripper_range"
    JOINT_ORDER = "joint_order"
    CONTROL_RATE = "control_rate"
    CHUNK_LENGTH = "chunk_length"
    TOKENIZER = "tokenizer"
    CAMERA_NAMES = "camera_names"
    IMAGE_SIZE = "image_size"
    COLOR_ORDER = "color_order"
    IMAGE_TURN = "image_turn"
    PROMPT = "prompt"
    EPISODE = "episode"  # the episode was recorded with another contract
    SIGN = "sign"
    ACTION_SCALE = "action_scale"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference."""

    check: Check
    expected: str
    found: str
    fix: str

    def __str__(self) -> str:
        """In one line."""
        return f"{self.check.value}: expected {self.expected}; found {self.found}; {self.fix}"


class PreflightError(ValueError):
    """The policy and the stack do not mean the same; nothing was moved.

    Attributes:
        findings: All differences.
    """

    def __init__(self, policy: str, findings: Sequence[Finding]) -> None:
        lines = "\n".join(f"  {finding}" for finding in findings)
        super().__init__(f"the preflight of {policy!r} found {len(findings)} mistake(s), nothing was moved:\n{lines}")
        self.findings = tuple(findings)
