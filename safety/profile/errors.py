"""The one error of this package."""


class SafetyProfileError(ValueError):
    """A safety profile that is malformed, implausible, or meant for another robot."""
