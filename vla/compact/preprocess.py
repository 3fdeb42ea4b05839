"""From sensor readings to model inputs; the same functions serve training and inference."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from controllers.types import ImageArray, Observation

PROPRIOCEPTION_DIMS = 16
PROPRIOCEPTION_NAMES = (
    *("x", "y", "z"),
    *("r11", "r21", "r31", "r12", "r22", "r32"),
    "gripper_opening",
    *("lag_x", "lag_y", "lag_z"),
    *("force_x", "force_y", "force_z"),
)
FORCE_SCALE_N = 20.0
LAG_SCALE_M = 0.02

Float32Array = npt.NDArray[np.float32]


def proprioception(
    commanded_pose: npt.NDArray[np.floating],
    ee_pose: npt.NDArray[np.floating],
    gripper_opening: npt.NDArray[np.floating] | float,
    wrench: npt.NDArray[np.floating],
) -> Float32Array:
    """What the model knows of the robot's own state. Any leading batch shape.

    Args:
        commanded_pose: (..., 7) position m and quaternion wxyz of the reference pose, base frame.
        ee_pose: (..., 7) the same of the sensed pose.
        gripper_opening: (...) m.
        wrench: (..., 6) force N and torque N m at the wrist; only the force is used, squashed by tanh.

    Returns:
        (..., 16): commanded position, first two columns of the commanded rotation matrix (the continuous 6D
        representation of Zhou et al., https://arxiv.org/abs/1812.07035), gripper opening, squashed sensed minus
        commanded position, squashed force.
    """
    pose = np.asarray(commanded_pose, dtype=np.float64)
    sensed = np.asarray(ee_pose, dtype=np.float64)
    w, x, y, z = np.moveaxis(pose[..., 3:7], -1, 0)
    columns = (
        1 - 2 * (y * y + z * z),
        2 * (x * y + w * z),
        2 * (x * z - w * y),
        2 * (x * y - w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z + w * x),
    )
    parts = (
        pose[..., :3],
        np.stack(columns, axis=-1),
        np.asarray(gripper_opening, dtype=np.float64)[..., None],
        np.tanh((sensed[..., :3] - pose[..., :3]) / LAG_SCALE_M),
        np.tanh(np.asarray(wrench, dtype=np.float64)[..., :3] / FORCE_SCALE_N),
    )
    return np.concatenate(parts, axis=-1).astype(np.float32)


def observation_proprioception(observation: Observation) -> Float32Array:
    """The (16,) proprioception vector of one observation."""
    state, commanded = observation.state, observation.commanded_pose
    return proprioception(
        np.concatenate((commanded.position, commanded.quaternion)),
        np.concatenate((state.ee_pose.position, state.ee_pose.quaternion)),
        state.gripper_opening,
        state.wrench,
    )


def observation_image(observation: Observation, camera: str, size: int) -> ImageArray:
    """The (size, size, 3) uint8 image of one camera; a larger square picture is scaled down by the mean over areas.

    Raises:
        ValueError: The camera is missing, or its image is smaller, not square or of another type.
    """
    image = observation.images.get(camera)
    if image is None:
        have = ", ".join(sorted(observation.images)) or "none"
        raise ValueError(f"the policy needs camera {camera!r}; the observation has: {have}")
    if image.shape == (size, size, 3) and image.dtype == np.uint8:
        return image
    check_picture(camera, image.shape[:2], size)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"camera {camera!r} must give (N, N, 3) uint8, found {image.shape} {image.dtype}")
    # Other kinds of interpolation alias what is scaled down.
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def check_picture(camera: str, height_width: tuple[int, ...], size: int) -> None:
    """Refuse a picture that cannot become one of ``size`` pixels a side without inventing or squeezing anything.

    Raises:
        ValueError: It is smaller or not square.
    """
    if len(height_width) != 2 or height_width[0] != height_width[1] or height_width[0] < size:
        found = " x ".join(str(n) for n in height_width)
        raise ValueError(
            f"camera {camera!r}: expected a square picture of {size} pixels a side or more, found {found}; "
            "set the camera's size in the stack"
        )
