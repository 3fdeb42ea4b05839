"""The arms' forward kinematics against the manufacturers' published Denavit-Hartenberg tables."""

from __future__ import annotations

import math

import numpy as np

from controllers.kinematics import ArmModel
from controllers.robot import load_robot
from controllers.spatial import rotation_matrix

HALF_TURN = math.pi / 2
# Franka Control Interface documentation, "Denavit-Hartenberg parameters" (Craig's convention): a, d, alpha.
PANDA_DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -HALF_TURN),
    (0.0, 0.316, HALF_TURN),
    (0.0825, 0.0, HALF_TURN),
    (-0.0825, 0.384, -HALF_TURN),
    (0.0, 0.0, HALF_TURN),
    (0.088, 0.0, HALF_TURN),
)
PANDA_FLANGE_M = 0.107
HAND_TCP_M = 0.1034
HAND_TURN = -math.pi / 4


def link(a: float, d: float, alpha: float, theta: float) -> np.ndarray:
    ca, sa, ct, st = math.cos(alpha), math.sin(alpha), math.cos(theta), math.sin(theta)
    return np.array(
        [
            [ct, -st, 0.0, a],
            [st * ca, ct * ca, -sa, -d * sa],
            [st * sa, ct * sa, ca, d * ca],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def test_panda_agrees_with_the_published_table() -> None:
    robot = load_robot("panda")
    arm = ArmModel(robot)
    rng = np.random.default_rng(0)
    for _ in range(200):
        q = rng.uniform(robot.limits.position_lower, robot.limits.position_upper)
        expected = np.eye(4)
        for (a, d, alpha), theta in zip(PANDA_DH, q, strict=True):
            expected = expected @ link(a, d, alpha, theta)
        expected = expected @ link(0.0, PANDA_FLANGE_M, 0.0, 0.0) @ link(0.0, HAND_TCP_M, 0.0, HAND_TURN)
        pose = arm.end_effector_pose(q)
        np.testing.assert_allclose(pose.position, expected[:3, 3], atol=1e-6)
        np.testing.assert_allclose(rotation_matrix(pose.quaternion), expected[:3, :3], atol=1e-6)
