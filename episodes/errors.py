"""The one error that reading or writing episodes raises."""

from __future__ import annotations


class EpisodeError(ValueError):
    """An episode that is missing, truncated, corrupt or cannot be written; says expected, found and what to do."""

    def __init__(self, what: str, expected: str, found: str, advice: str) -> None:
        """Describe the failure.

        Args:
            what: The store, table or file that is at fault.
            expected: What should have been there.
            found: What was there.
            advice: What the reader can do about it.
        """
        super().__init__(f"{what}: expected {expected}, found {found}; {advice}")
        self.what = what
        self.expected = expected
        self.found = found
        self.advice = advice


class LogLossError(EpisodeError):
    """The log could not be written completely. What could be is on disk, opens, and has an intact hash chain."""
