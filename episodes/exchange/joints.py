"""Names of an episode's arm joints."""

from __future__ import annotations

from pathlib import Path

from controllers.robot import RobotDescriptionError, load_robot
from episodes.episode import Episode
from episodes.provenance import provenance


def joint_names(episode: Episode) -> tuple[str, ...]:
    """Names of the arm joints, in the order of every joint array.

    They come from the robot's description; where that cannot be found here they are ``joint_1``, ``joint_2``, ...
    """
    robot = episode.manifest.stack.get("robot", episode.manifest.robot)
    numbered = tuple(f"joint_{index + 1}" for index in range(episode.manifest.joints))
    origin = provenance(episode.manifest)
    if origin is not None and len(origin.joint_names) == episode.manifest.joints:
        return origin.joint_names
    try:
        description = load_robot(Path(robot) if isinstance(robot, str) and "/" in robot else str(robot))
    except (RobotDescriptionError, OSError):
        return numbered
    return description.joint_names if description.n == episode.manifest.joints else numbered
