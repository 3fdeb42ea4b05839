"""What can be wrong with a message, a parameter or the installation."""

from __future__ import annotations


class MessageError(ValueError):
    """A message that does not say what it must. Never guessed around: the message is not used."""


class MissingRosError(RuntimeError):
    """rclpy is not installed."""


def require_rclpy() -> None:
    """Make sure that ROS 2 can be spoken.

    Raises:
        MissingRosError: rclpy is not installed; says which extra brings it.
    """
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        raise MissingRosError(
            f"expected rclpy (ROS 2), found none ({error}): install the extra with `pip install 'vla-stack[ros]'`, "
            "or source a ROS 2 installation for this Python"
        ) from error
