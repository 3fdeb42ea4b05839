"""The emergency stop as a button in shared memory: any process can press it, whatever the controller does.

As on a panel: pressed, it stays pressed, and nobody can reset the filter's latch meanwhile. Released, the latch stays
until somebody asks for a reset, which the filter grants only to an arm at rest.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from controllers.shared_memory import PAGE
from safety.process.memory import Segment, read_header

BUTTON_SIZE = PAGE
_PRESSED, _PRESS, _RESET = 0, 1, 2  # words; any level but zero is pressed, any change of the others is a request


class EmergencyStop:
    """A handle on the button of a running kernel. Several processes may hold one; it is one button for all."""

    def __init__(self, address: str) -> None:
        """Reach the button.

        Args:
            address: ``SafetyKernelProcess.address``.

        Raises:
            SafetyKernelError: There is no kernel at ``address``.
        """
        outbox = Segment.open(address, writable=False)
        try:
            header = read_header(outbox, address)
        finally:
            outbox.close()
        self._segment = Segment.open(header.button, writable=True)

    @property
    def pressed(self) -> bool:
        """The button is in."""
        return self._segment.words[_PRESSED] != 0

    def press(self) -> None:
        """Stop the arm and latch. Returns at once; the next tick obeys."""
        self._segment.words[_PRESS] = secrets.randbits(64)  # a press and a release within one tick is still seen
        self._segment.words[_PRESSED] = 1

    def release(self) -> None:
        """Let the button out. The stop stays latched until :meth:`reset`."""
        self._segment.words[_PRESSED] = 0

    def reset(self) -> None:
        """Ask the filter to leave the latched stop; refused, with a reason in the verdict, unless the arm is at rest.

        Has no effect while the button is pressed.
        """
        self._segment.words[_RESET] = secrets.randbits(64)

    def close(self) -> None:
        """Let go of the memory; the button stays as it is."""
        self._segment.close()


class ButtonState(NamedTuple):
    """What the button says on one tick."""

    stop: bool
    pressed_now: bool
    reset: bool


class ButtonReader:
    """The kernel's side."""

    def __init__(self, segment: Segment) -> None:
        """Read ``segment``."""
        self._words = segment.words
        self._press, self._reset, self._level = self._words[_PRESS], self._words[_RESET], 0

    def poll(self) -> ButtonState:
        """The button now, and what was asked since the last poll."""
        level, press, reset = self._words[_PRESSED], self._words[_PRESS], self._words[_RESET]
        pressed_now = press != self._press or (level != 0 and self._level == 0)
        asked = reset != self._reset
        self._press, self._reset, self._level = press, reset, level
        return ButtonState(level != 0 or pressed_now, pressed_now, asked)
