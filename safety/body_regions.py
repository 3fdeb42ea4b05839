"""Biomechanical limits for contact with people, as declared data beside a profile's force ceilings.

Source: ISO/TS 15066:2016, Annex A. Table A.2 gives for each body region the largest quasi-static force, for each of 29
areas the largest quasi-static pressure, and the factor by which transient contact may exceed them; Table A.3 gives the
spring constant and the effective mass that stand for a region in its contact model. ISO 10218-2:2025 took the contents
over; its edition of the tables was not compared with this one.

How sure the figures are: none was compared with the standard's own text. Forces and transient factors are those that
secondary literature commonly quotes; the spring constants of the first six regions (skull to abdomen) and the effective
masses of neck, chest, arms and hands were found again in public sources; the pressures of the areas and the remaining
masses and spring constants were not. Check them against a copy of the standard before you rely on any.

**Nothing here is certified.** The filter does not enforce this table. That a profile's ceilings lie below a row says
that the *configured numbers* are smaller, not that a robot is safe beside people: forces in simulation are calibrated
against no robot, pressure depends on the shape of what touches and is not measured, and contact with head, face and
neck is to be avoided whatever the force. Only a risk assessment with measured forces and pressures can release a cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from safety.profile import ForceSettings

SOURCE = "ISO/TS 15066:2016, Annex A, Tables A.2 and A.3 (contents taken over by ISO 10218-2:2025)"
DISCLAIMER = "declared data, not certified; simulated newtons are uncalibrated, pressure is not checked"


@dataclass(frozen=True, slots=True)
class BodyArea:
    """One of the 29 areas of Table A.2.

    Attributes:
        number: Its number in the table.
        name: Its name.
        pressure_n_cm2: Largest quasi-static pressure, N/cm^2.
    """

    number: int
    name: str
    pressure_n_cm2: float


@dataclass(frozen=True, slots=True)
class BodyRegion:
    """One of the 12 regions of Table A.2, with its contact model from Table A.3.

    Attributes:
        name: Name of the region.
        quasi_static_n: Largest quasi-static force, N.
        transient_factor: How many times that a transient force may reach, None where transient contact has no limit
            because it is not admitted.
        stiffness_n_mm: Spring constant, N/mm.
        effective_mass_kg: Effective mass, kg.
        areas: Its areas.
    """

    name: str
    quasi_static_n: float
    transient_factor: float | None
    stiffness_n_mm: float
    effective_mass_kg: float
    areas: tuple[BodyArea, ...]

    @property
    def transient_n(self) -> float | None:
        """Largest transient force, N; None where transient contact is not admitted."""
        return None if self.transient_factor is None else self.transient_factor * self.quasi_static_n

    def transient_energy_j(self) -> float | None:
        """Energy that the region's spring holds at the transient limit, ``F^2 / (2 k)``, J."""
        force = self.transient_n
        return None if force is None else force * force / (2.0 * 1e3 * self.stiffness_n_mm)

    def transient_speed_m_s(self, robot_mass_kg: float) -> float | None:
        """Relative speed at which a free body part is hit with the transient limit, m/s.

        Args:
            robot_mass_kg: Mass that the robot reflects in the direction of contact.
        """
        energy = self.transient_energy_j()
        if energy is None:
            return None
        reduced = 1.0 / (1.0 / robot_mass_kg + 1.0 / self.effective_mass_kg)
        return math.sqrt(2.0 * energy / reduced)


def _region(
    name: str,
    force: float,
    factor: float | None,
    stiffness: float,
    mass: float,
    areas: tuple[tuple[int, str, float], ...],
) -> BodyRegion:
    return BodyRegion(name, force, factor, stiffness, mass, tuple(BodyArea(*area) for area in areas))


BODY_REGIONS: tuple[BodyRegion, ...] = (
    _region("skull and forehead", 130, None, 150, 4.4, ((1, "middle of forehead", 130), (2, "temple", 110))),
    _region("face", 65, None, 75, 4.4, ((3, "masticatory muscle", 110),)),
    _region("neck", 150, 2, 50, 1.2, ((4, "neck muscle", 140), (5, "seventh neck vertebra", 210))),
    _region("back and shoulders", 210, 2, 35, 40, ((6, "shoulder joint", 160), (7, "fifth lumbar vertebra", 210))),
    _region("chest", 140, 2, 25, 40, ((8, "sternum", 120), (9, "pectoral muscle", 170))),
    _region("abdomen", 110, 2, 10, 40, ((10, "abdominal muscle", 140),)),
    _region("pelvis", 180, 2, 25, 40, ((11, "pelvic bone", 210),)),
    _region("upper arms and elbow joints", 150, 2, 30, 3, ((12, "deltoid muscle", 190), (13, "humerus", 220))),
    _region(
        "lower arms and wrist joints",
        160,
        2,
        40,
        2,
        ((14, "radial bone", 190), (15, "forearm muscle", 180), (16, "arm nerve", 180)),
    ),
    _region(
        "hands and fingers",
        140,
        2,
        75,
        0.6,
        (
            (17, "forefinger pad, dominant hand", 300),
            (18, "forefinger pad, other hand", 270),
            (19, "forefinger end joint, dominant hand", 280),
            (20, "forefinger end joint, other hand", 220),
            (21, "thenar eminence", 200),
            (22, "palm, dominant hand", 260),
            (23, "palm, other hand", 260),
            (24, "back of the hand, dominant hand", 200),
            (25, "back of the hand, other hand", 190),
        ),
    ),
    _region("thighs and knees", 220, 2, 50, 75, ((26, "thigh muscle", 250), (27, "kneecap", 220))),
    _region("lower legs", 130, 2, 60, 75, ((28, "middle of shin", 220), (29, "calf muscle", 210))),
)


@dataclass(frozen=True, slots=True)
class RegionVerdict:
    """How a profile's declared force ceilings compare with one region.

    Attributes:
        region: Name of the region.
        quasi_static_limit_n: The region's quasi-static force, N.
        transient_limit_n: The region's transient force, N, None where transient contact is not admitted.
        quasi_static_respected: The profile's quasi-static ceiling is no higher.
        transient_respected: The profile's transient ceiling is no higher; where transient contact is not admitted, it
            is compared with the quasi-static force.
    """

    region: str
    quasi_static_limit_n: float
    transient_limit_n: float | None
    quasi_static_respected: bool
    transient_respected: bool

    @property
    def respected(self) -> bool:
        """Both ceilings are no higher than the region's forces."""
        return self.quasi_static_respected and self.transient_respected


def compare(force: ForceSettings) -> tuple[RegionVerdict, ...]:
    """Compare a profile's declared force ceilings with every region: numbers with numbers, no more than that."""
    verdicts: list[RegionVerdict] = []
    for region in BODY_REGIONS:
        transient = region.quasi_static_n if region.transient_n is None else region.transient_n
        verdicts.append(
            RegionVerdict(
                region.name,
                region.quasi_static_n,
                region.transient_n,
                force.quasi_static_n <= region.quasi_static_n,
                force.transient_n <= transient,
            )
        )
    return tuple(verdicts)
