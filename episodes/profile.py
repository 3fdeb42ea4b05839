"""How an episode is logged: how its pictures are kept, and what the arm does when the disk takes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from controllers.drivers import LogFailure
from episodes.jsontypes import JsonDict

LOSSLESS = "lossless"
_JPEG = "jpeg"


@dataclass(frozen=True, slots=True)
class CameraProfile:
    """How pictures are kept.

    Attributes:
        jpeg_quality: 1 to 100, 0 for lossless.
    """

    jpeg_quality: int = 0

    def __post_init__(self) -> None:
        """Check the range.

        Raises:
            ValueError: No such quality.
        """
        if not 0 <= self.jpeg_quality <= 100:
            raise ValueError(f"expected a JPEG quality from 1 to 100, found {self.jpeg_quality}")

    @property
    def lossy(self) -> bool:
        """What is kept is not what the policy saw."""
        return self.jpeg_quality > 0

    def __str__(self) -> str:
        """As the manifest says it, and :func:`camera_profile` reads it."""
        return f"{_JPEG}:{self.jpeg_quality}" if self.lossy else LOSSLESS


LOSSLESS_CAMERAS = CameraProfile()


def camera_profile(text: str) -> CameraProfile:
    """The profile called ``lossless`` or ``jpeg:QUALITY``.

    Raises:
        ValueError: Any other text; says what was expected.
    """
    kind, _, quality = text.partition(":")
    if text == LOSSLESS:
        return CameraProfile()
    if kind == _JPEG and quality.isdecimal() and 1 <= int(quality) <= 100:
        return CameraProfile(int(quality))
    raise ValueError(f"expected a camera log of lossless or jpeg:QUALITY with 1 to 100, found {text!r}; try jpeg:90")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How an episode is logged.

    Attributes:
        cameras: How pictures are kept.
        failure: What the arm does, in real time, while the log cannot be written.
        faults: Faults that are injected on purpose, for the manifest.
    """

    cameras: CameraProfile = LOSSLESS_CAMERAS
    failure: LogFailure = LogFailure.CONTINUE
    faults: JsonDict = field(default_factory=dict[str, object])
