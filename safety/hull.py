"""The arm's hull of capsules, the zones it keeps out of, and the planes that part them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from controllers.names import nearest_name_hint
from controllers.robot import RobotDescription
from controllers.types import FloatArray, IntArray
from safety.kernel.look import part
from safety.kernel.mjcf import body_points
from safety.kernel.rows import NO_POINT, Rows
from safety.kinematics import TrackedPoint, end_effector_point
from safety.profile import SafetyProfile, SafetyProfileError
from safety.zones import zone_table

# Capsules of links fewer than this many joints apart are neighbours: they touch by design.
_NEIGHBOUR_JOINTS = 3
# Farther apart than this, m, the parting plane is taken from bounding balls instead of the shortest way.
_HORIZON_M = 0.3
# What the gripper holds, among the capsules.
_CARRIED = "carried_object"


class HullRows(NamedTuple):
    """What parts the hull at one configuration.

    Attributes:
        zones: Two rows for each capsule and zone.
        zones_carrying: The same, with what the gripper carries.
        pairs: Four rows for each pair of capsules that are not neighbours.
    """

    zones: Rows
    zones_carrying: Rows
    pairs: Rows


class _Planes(NamedTuple):
    """Which capsules are parted from what.

    Attributes:
        pairs: (p, 2) capsule and zone, or capsule and capsule.
        first: (ends p,) points of the rows.
        second: (ends p,) other points of the rows.
        distance: (p,) m, radii and clearance.
    """

    pairs: IntArray
    first: IntArray
    second: IntArray
    distance: FloatArray


class Hull:
    """Finds the parting planes. One instance serves one thread.

    Attributes:
        tracked: Ends of the capsules as points to watch: all starts, then all ends.
        names: Names of the capsules, in the same order.
    """

    def __init__(self, description: RobotDescription, profile: SafetyProfile, first_point: int) -> None:
        """Lay out capsules, zones and pairs.

        Args:
            description: The robot with its capsules.
            profile: Zones and distances.
            first_point: Index of the first capsule's start among all watched points.

        Raises:
            SafetyProfileError: The profile names a capsule that the robot has not.
        """
        capsules, carried = description.capsules, profile.carried_object
        names = [capsule.name for capsule in capsules]
        starts = [TrackedPoint(c.body, _triple(c.start)) for c in capsules]
        ends = [TrackedPoint(c.body, _triple(c.end)) for c in capsules]
        radii = [c.radius for c in capsules]
        links = body_points(description, [c.body for c in capsules], np.zeros((len(capsules), 3))).link.tolist()
        self._arm_capsules = len(capsules)
        if carried is not None:  # a ball: a capsule whose ends coincide
            centre = end_effector_point(description, carried.centre_m)
            starts.append(centre)
            ends.append(centre)
            radii.append(carried.radius_m)
            names.append(_CARRIED)
        self.names = tuple(names)
        self.tracked = (*starts, *ends)
        self._from, self._to = first_point, first_point + len(starts)
        self._zones = zone_table(profile.keep_outs)
        # What does not move needs no parting: a table declared as a half-space may reach up to the base's foot.
        moving = [c for c, link in enumerate([*links, *([0] * (len(radii) - len(links)))]) if link >= 0]
        self._zone_planes = self._against_zones(radii, moving, profile)
        self._pair_planes = self._against_itself(description.n, links, radii, profile)
        most = max(len(self._zone_planes.pairs), len(self._pair_planes.pairs))
        self._gap, self._normal, self._support = np.empty(most), np.empty((most, 3)), np.empty(most)
        self._arm_rows = 2 * int((self._zone_planes.pairs[:, 0] < self._arm_capsules).sum())
        self._arm_ends = self._zone_planes.first[: self._arm_rows], self._zone_planes.second[: self._arm_rows]

    def rows(self, points: FloatArray) -> HullRows:
        """The parting planes of a configuration with watched ``points`` (k, 3) m."""
        zones, pairs = _room(self._zone_planes), _room(self._pair_planes)
        part(
            points,
            self._from,
            self._to,
            self._zones.kind,
            self._zones.table,
            self._zone_planes.pairs,
            self._zone_planes.distance,
            self._pair_planes.pairs,
            self._pair_planes.distance,
            _HORIZON_M,
            self._gap,
            self._normal,
            self._support,
            zones.normals,
            zones.offsets,
            pairs.normals,
            pairs.offsets,
        )
        arm = self._arm_rows
        if arm == len(zones.offsets):
            return HullRows(zones, zones, pairs)
        # Rows of the carried object come last.
        without = Rows(zones.normals[:arm], *self._arm_ends, zones.offsets[:arm])
        return HullRows(without, zones, pairs)

    def _against_zones(self, radii: list[float], moving: list[int], profile: SafetyProfile) -> _Planes:
        known = (*self.names[: self._arm_capsules], _CARRIED)
        for zone in profile.keep_outs:
            for name in zone.spares:
                _check_capsule(name, known, f"keep_outs: {zone.name}: spares", profile)
        zones = profile.keep_outs
        found = [(c, z) for c in moving for z, zone in enumerate(zones) if self.names[c] not in zone.spares]
        pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
        first = np.stack((self._from + pairs[:, 0], self._to + pairs[:, 0]), axis=1).ravel()
        return _Planes(pairs, first, np.full_like(first, NO_POINT), np.array(radii)[pairs[:, 0]])

    def _against_itself(self, n: int, links: list[int], radii: list[float], profile: SafetyProfile) -> _Planes:
        settings, names = profile.self_collision, self.names[: self._arm_capsules]
        for name in (name for pair in settings.ignore for name in pair):
            _check_capsule(name, names, "self_collision: ignore", profile)
        found = [
            (i, j)
            for i in range(len(names))
            for j in range(i)
            if abs(links[i] - links[j]) >= _NEIGHBOUR_JOINTS
            and tuple(sorted((names[i], names[j]))) not in settings.ignore
        ]
        pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
        i, j = pairs[:, 0], pairs[:, 1]
        first = np.stack((self._from + i, self._from + i, self._to + i, self._to + i), axis=1).ravel()
        second = np.stack((self._from + j, self._to + j, self._from + j, self._to + j), axis=1).ravel()
        size = np.array(radii)
        return _Planes(pairs, first, second, size[i] + size[j] + settings.distance_m)


def _check_capsule(name: str, known: tuple[str, ...], where: str, profile: SafetyProfile) -> None:
    if name not in known:
        raise SafetyProfileError(
            f"profile {profile.name!r}: {where}: expected capsules of {profile.robot!r}, "
            f"found {name!r}{nearest_name_hint(name, known)}; it has {', '.join(known)}"
        )


def _room(planes: _Planes) -> Rows:
    """Rows to be written."""
    size = len(planes.first)
    return Rows(np.empty((size, 3)), planes.first, planes.second, np.empty(size))


def _triple(vector: FloatArray) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return (x, y, z)
