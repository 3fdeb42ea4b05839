"""What the arm presses on: peak and lasting contact forces, and penetration, from the physics engine's solver."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np

from controllers.robot import RobotDescription
from safety.monitor.ledger import Ledger, MonitoredLimit
from safety.monitor.tolerance import MonitorTolerance
from safety.profile import SafetyProfile

_MOST_CONTACTS = 64


class Contacts:
    """Judges the contacts between the arm and everything else.

    The forces of several contacts between the same body and the same obstacle add up to one blow. What the finger pads
    hold (an object that is free to move) is a grasp, no contact with the world.
    """

    def __init__(
        self, model: mujoco.MjModel, description: RobotDescription, profile: SafetyProfile, tolerance: MonitorTolerance
    ) -> None:
        """Bind to a model that holds the arm under its own names."""
        root = int(model.body_rootid[int(model.jnt_bodyid[model.joint(description.joint_names[0]).id])])
        arm_bodies = model.body_rootid == root
        self._is_arm = arm_bodies[model.geom_bodyid]
        # Welded to the world: whatever is fixed. The rest may be held, unless springs hold it already.
        sprung = {int(body) for body, k in zip(model.jnt_bodyid, model.jnt_stiffness, strict=True) if k > 0.0}
        is_sprung = np.array([int(body) in sprung for body in model.geom_bodyid])
        self._is_free = (model.body_weldid[model.geom_bodyid] != 0) & ~self._is_arm & ~is_sprung
        fingers = {int(model.jnt_bodyid[model.joint(name).id]) for name in description.gripper.joints}
        self._is_finger = np.array([int(body) in fingers for body in model.geom_bodyid])
        self._bodies = model.geom_bodyid
        self._names = [str(mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, g)) for g in range(model.ngeom)]
        self._force = profile.force
        self._tolerance = tolerance
        speed = profile.end_effector.linear_speed_m_s
        self._yielding = tolerance.penetration_m + tolerance.penetration_s * speed
        self._model = model
        self._wrench = np.zeros(6)
        self._above_since_ns = -1

    def judge(self, data: Any, ledger: Ledger, now_ns: int) -> None:
        """Judge the contacts that the last solver pass of ``data`` knows.

        Call it after ``mj_step``, ``mj_step2`` or ``mj_forward``; after ``mj_step1`` contacts are new and forces old.
        """
        sums: dict[tuple[int, int], tuple[np.ndarray[Any, np.dtype[np.float64]], str]] = {}
        deepest, deepest_name = 0.0, ""
        for index in range(min(int(data.ncon), _MOST_CONTACTS)):
            contact = data.contact[index]
            first, second = (int(geom) for geom in contact.geom)
            if bool(self._is_arm[first]) == bool(self._is_arm[second]):
                continue
            arm, other = (first, second) if self._is_arm[first] else (second, first)
            if self._is_finger[arm] and self._is_free[other]:
                continue
            name = f"{self._names[arm]} - {self._names[other]}"
            if contact.dist < deepest:
                deepest, deepest_name = float(contact.dist), name
            mujoco.mj_contactForce(self._model, data, index, self._wrench)
            frame = np.asarray(contact.frame).reshape(3, 3)
            sign = 1.0 if self._is_arm[second] else -1.0
            force = sign * (frame.T @ self._wrench[:3])
            key = (int(self._bodies[arm]), int(self._bodies[other]))
            so_far = sums.get(key)
            sums[key] = (force, name) if so_far is None else (so_far[0] + force, name)
        strongest, strongest_name = 0.0, ""
        for force, name in sums.values():
            size = math.sqrt(float(force @ force))
            if not size <= strongest:
                strongest, strongest_name = size, name
        self._judge_force(strongest, strongest_name, ledger, now_ns)
        margin = deepest + self._yielding
        ledger.note(MonitoredLimit.PENETRATION, -deepest, 0.0, margin, 0.1, "m", deepest_name, now_ns)

    def _judge_force(self, size: float, name: str, ledger: Ledger, now_ns: int) -> None:
        limits, allowed = self._force, 1.0 + self._tolerance.contact_ratio
        limit, bound = MonitoredLimit.CONTACT_TRANSIENT, limits.transient_n
        ledger.note(limit, size, bound, bound * allowed - size, bound, "N", name, now_ns)
        limit, bound = MonitoredLimit.CONTACT_QUASI_STATIC, limits.quasi_static_n
        if size <= bound * allowed:
            self._above_since_ns = -1
            ledger.note(limit, size, bound, bound * allowed - size, bound, "N", name, now_ns)
            return
        if self._above_since_ns < 0:
            self._above_since_ns = now_ns
        if now_ns - self._above_since_ns > limits.transient_ms * 1e6 * allowed:
            ledger.note(limit, size, bound, bound * allowed - size, bound, "N", name, now_ns)
