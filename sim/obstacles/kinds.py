"""Free-standing things of household size that may stand in the way, and the zones that enclose them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import mujoco
import numpy as np

from safety.profile.zones import BoxZone, CylinderZone, KeepOut, SphereZone
from sim.objects.base import BOX, CYLINDER, RGBA, SPHERE, add_solid, yaw_quaternion

ZONE_PREFIX = "obstacle_"
_DENSITY_KG_M3 = 450.0  # a half-filled container
# Household colours, away from the saturated ones of what tasks ask for.
_COLOURS: tuple[RGBA, ...] = (
    (0.62, 0.50, 0.36, 1.0),
    (0.36, 0.44, 0.42, 1.0),
    (0.70, 0.62, 0.66, 1.0),
    (0.25, 0.27, 0.33, 1.0),
)


class Form(Enum):
    """Shape of one part."""

    BOX = "box"
    CYLINDER = "cylinder"
    SPHERE = "sphere"


@dataclass(frozen=True, slots=True)
class Part:
    """One convex part, centred on the obstacle's vertical axis.

    Attributes:
        form: Its shape.
        half_width: Half extent along the obstacle's x axis, or radius, m.
        half_depth: Half extent along its y axis, or radius, m.
        half_height: m.
        z: Height of its centre, m.
    """

    form: Form
    half_width: float
    half_depth: float
    half_height: float
    z: float


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A free-standing thing.

    Attributes:
        name: Name of its body, whose origin is the middle of its foot.
        kind: ``carton``, ``mug``, ``bottle`` or ``ball_on_stand``.
        parts: What it is made of.
        hulls: Solids that enclose it; zones are made of these.
        xy: Where it stands, m, base frame.
        yaw: Turn about the vertical, rad.
        rgba: Colour.
    """

    name: str
    kind: str
    parts: tuple[Part, ...]
    hulls: tuple[Part, ...]
    xy: tuple[float, float] = (0.0, 0.0)
    yaw: float = 0.0
    rgba: RGBA = _COLOURS[0]

    @property
    def radius(self) -> float:
        """Radius of the upright cylinder that holds it, m."""
        return max(
            math.hypot(part.half_width, part.half_depth) if part.form is Form.BOX else part.half_width
            for part in self.hulls
        )

    @property
    def height(self) -> float:
        """Height of its highest point, m."""
        return max(part.z + part.half_height for part in self.hulls)

    def zones(self, margin: float) -> tuple[KeepOut, ...]:
        """Keep-out zones, base frame, that enclose it as it stands with ``margin`` m to spare."""
        names = [self.name if index == 0 else f"{self.name}_{index}" for index in range(len(self.hulls))]
        return tuple(self._zone(name, part, margin) for name, part in zip(names, self.hulls, strict=True))

    def _zone(self, name: str, part: Part, margin: float) -> KeepOut:
        x, y = self.xy
        if part.form is Form.BOX:
            w, _, _, z = yaw_quaternion(self.yaw)
            half = (part.half_width + margin, part.half_depth + margin, part.half_height + margin)
            return BoxZone(name, (x, y, part.z), half, (w, 0.0, 0.0, z))
        if part.form is Form.SPHERE:
            return SphereZone(name, (x, y, part.z), part.half_width + margin)
        foot, top = part.z - part.half_height - margin, part.z + part.half_height + margin
        return CylinderZone(name, (x, y, foot), (x, y, top), part.half_width + margin)

    def add_to(self, spec: mujoco.MjSpec) -> None:
        """Add it to a scene as a free body that stands on the table."""
        body = spec.worldbody.add_body(name=self.name, pos=[*self.xy, 0.0], quat=yaw_quaternion(self.yaw))
        body.add_freejoint()
        for part in self.parts:
            if part.form is Form.BOX:
                shape, size = BOX, [part.half_width, part.half_depth, part.half_height]
            elif part.form is Form.CYLINDER:
                shape, size = CYLINDER, [part.half_width, part.half_height]
            else:
                shape, size = SPHERE, [part.half_width]
            volume = 8.0 * part.half_width * part.half_depth * part.half_height
            mass = max(0.02, _DENSITY_KG_M3 * volume)
            add_solid(body, shape, size, self.rgba, pos=[0.0, 0.0, part.z], mass=mass, friction=0.9)


def _column(radius: float, height: float, foot: float = 0.0) -> Part:
    return Part(Form.CYLINDER, radius, radius, 0.5 * height, foot + 0.5 * height)


def _carton(name: str, rng: np.random.Generator) -> Obstacle:
    width, depth, height = (float(v) for v in rng.uniform((0.05, 0.05, 0.10), (0.08, 0.08, 0.22)))
    part = Part(Form.BOX, 0.5 * width, 0.5 * depth, 0.5 * height, 0.5 * height)
    return Obstacle(name, "carton", (part,), (part,))


def _mug(name: str, rng: np.random.Generator) -> Obstacle:
    radius, height = (float(v) for v in rng.uniform((0.035, 0.08), (0.045, 0.11)))
    part = _column(radius, height)
    return Obstacle(name, "mug", (part,), (part,))


def _bottle(name: str, rng: np.random.Generator) -> Obstacle:
    radius, height = (float(v) for v in rng.uniform((0.028, 0.18), (0.038, 0.25)))
    shoulder = 0.68 * height
    parts = (_column(radius, shoulder), _column(0.45 * radius, height - shoulder, shoulder))
    return Obstacle(name, "bottle", parts, (_column(radius, height),))


def _ball_on_stand(name: str, rng: np.random.Generator) -> Obstacle:
    radius, height = (float(v) for v in rng.uniform((0.028, 0.12), (0.038, 0.19)))
    ball = Part(Form.SPHERE, radius, radius, radius, height - radius)
    stem = _column(0.010, height - 2.0 * radius + 0.004)
    foot = _column(0.035, 0.012)
    # The ball first: it is what stands in the way.
    return Obstacle(name, "ball_on_stand", (ball, stem, foot), (ball, _column(0.035, height - radius)))


_KINDS: tuple[Callable[[str, np.random.Generator], Obstacle], ...] = (_carton, _mug, _bottle, _ball_on_stand)


def sample_obstacle(name: str, rng: np.random.Generator) -> Obstacle:
    """Draw a thing of 5 to 9 cm width and 8 to 25 cm height; it has no place yet."""
    obstacle = _KINDS[int(rng.integers(len(_KINDS)))](name, rng)
    colour = _COLOURS[int(rng.integers(len(_COLOURS)))]
    return Obstacle(obstacle.name, obstacle.kind, obstacle.parts, obstacle.hulls, rgba=colour)
