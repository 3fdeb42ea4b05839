"""From YAML or JSON to a checked profile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import yaml

from controllers.names import nearest_name_hint
from safety.profile.errors import SafetyProfileError
from safety.profile.fields import check_keys, mapping, parse_section, sequence, string
from safety.profile.profile import SafetyProfile
from safety.profile.settings import (
    STIFFEST_SURFACE_N_M,
    CarriedObject,
    EndEffectorSettings,
    Enforcement,
    ForceSettings,
    GripperSettings,
    HoldSettings,
    JointSettings,
    MonitoringSettings,
    OrientationCone,
    PointBox,
    SelfCollisionSettings,
    StoppingSettings,
    TimingSettings,
)
from safety.profile.zones import SHAPES, BoxZone, CapsuleZone, CylinderZone, KeepOut, Plane, Polytope

BUILT_IN_PROFILES = ("panda_tabletop", "panda_collaborative", "ur5e_tabletop", "so101_tabletop")

_REQUIRED = (
    "name",
    "robot",
    "enforcement",
    "joints",
    "end_effector",
    "gripper",
    "force",
    "stopping",
    "timing",
    "monitoring",
    "hold",
    "self_collision",
    "workspace",
)
_OPTIONAL = ("polytopes", "keep_outs", "orientation", "carried_object")


def load_profile(name_or_path: str | Path) -> SafetyProfile:
    """Load a safety profile.

    Args:
        name_or_path: A built-in name (``panda_tabletop`` and so on), or the path to a YAML file.

    Raises:
        SafetyProfileError: No such profile; unknown, missing or implausible entries.
    """
    path = _profile_path(name_or_path)
    try:
        data: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SafetyProfileError(f"{path.name}: not valid YAML: {error}") from error
    return _parse(path.name, mapping(path.name, data))


def parse_profile(data: Mapping[str, object]) -> SafetyProfile:
    """Rebuild a profile from :meth:`SafetyProfile.to_json`.

    Raises:
        SafetyProfileError: Unknown, missing or implausible entries.
    """
    return _parse("profile", data)


def _profile_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in BUILT_IN_PROFILES:
        return Path(str(resources.files("safety"))) / "profiles" / f"{text}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise SafetyProfileError(f"no safety profile at {path}")
    hint = nearest_name_hint(text, BUILT_IN_PROFILES)
    known = ", ".join(BUILT_IN_PROFILES)
    raise SafetyProfileError(
        f"unknown safety profile {text!r}: expected one of {known}, or the path to a YAML file{hint}"
    )


def _parse(where: str, data: Mapping[str, object]) -> SafetyProfile:
    check_keys(where, data, (*_REQUIRED, *_OPTIONAL), _REQUIRED)
    cone, carried = data.get("orientation"), data.get("carried_object")
    profile = SafetyProfile(
        name=string(where, "name", data["name"]),
        robot=string(where, "robot", data["robot"]),
        enforcement=_enforcement(where, data["enforcement"]),
        joints=parse_section(f"{where}: joints", data["joints"], JointSettings),
        end_effector=parse_section(f"{where}: end_effector", data["end_effector"], EndEffectorSettings),
        gripper=parse_section(f"{where}: gripper", data["gripper"], GripperSettings),
        force=_force(f"{where}: force", data["force"]),
        stopping=parse_section(f"{where}: stopping", data["stopping"], StoppingSettings),
        timing=parse_section(f"{where}: timing", data["timing"], TimingSettings),
        monitoring=parse_section(f"{where}: monitoring", data["monitoring"], MonitoringSettings),
        hold=parse_section(f"{where}: hold", data["hold"], HoldSettings),
        self_collision=_self_collision(f"{where}: self_collision", data["self_collision"]),
        workspace=_workspace(f"{where}: workspace", data["workspace"]),
        polytopes=_polytopes(f"{where}: polytopes", data.get("polytopes", {})),
        keep_outs=_keep_outs(f"{where}: keep_outs", data.get("keep_outs", {})),
        orientation=None if cone is None else parse_section(f"{where}: orientation", cone, OrientationCone),
        carried_object=None if carried is None else parse_section(f"{where}: carried_object", carried, CarriedObject),
    )
    _check_blow(where, profile)
    return profile


def _check_blow(where: str, profile: SafetyProfile) -> None:
    """A blow that the energy allows must not exceed the force that may be felt."""
    energy, force = profile.end_effector.kinetic_energy_j, profile.force.transient_n
    most = force * force / (2.0 * STIFFEST_SURFACE_N_M)
    if energy > most:
        peak = math.sqrt(2.0 * STIFFEST_SURFACE_N_M * energy)
        raise SafetyProfileError(
            f"{where}: end_effector: kinetic_energy_j: expected at most {most:.3g}, so that a blow against "
            f"{STIFFEST_SURFACE_N_M / 1e3:g} N/mm stays below force: transient_n ({force:g}); found {energy:g}, "
            f"which strikes with up to {peak:.0f} N. Lower it, or raise transient_n"
        )


def _enforcement(where: str, value: object) -> Enforcement:
    valid = [kind.value for kind in Enforcement]
    name = string(where, "enforcement", value)
    if name not in valid:
        hint = nearest_name_hint(name, valid)
        raise SafetyProfileError(f"{where}: enforcement: expected {' or '.join(valid)}, found {name!r}{hint}")
    return Enforcement(name)


def _force(where: str, data: object) -> ForceSettings:
    force = parse_section(where, data, ForceSettings)
    if force.transient_n < force.quasi_static_n:
        raise SafetyProfileError(
            f"{where}: expected transient_n of at least quasi_static_n ({force.quasi_static_n:g}), "
            f"found {force.transient_n:g}"
        )
    return force


def _self_collision(where: str, data: object) -> SelfCollisionSettings:
    section = mapping(where, data)
    pairs: list[tuple[str, str]] = []
    for item in sequence(where, "ignore", section.get("ignore", [])):
        names = sequence(where, "ignore", item)
        if len(names) != 2:
            raise SafetyProfileError(f"{where}: ignore: expected pairs of two capsule names, found {item!r}")
        first, second = sorted(string(where, "ignore", name) for name in names)
        pairs.append((first, second))
    rest = {key: value for key, value in section.items() if key != "ignore"}
    return parse_section(where, rest, SelfCollisionSettings, ignore=tuple(sorted(set(pairs))))


def _workspace(where: str, data: object) -> tuple[PointBox, ...]:
    boxes: list[PointBox] = []
    for point, entry in mapping(where, data).items():
        place = f"{where}: {point}"
        box = parse_section(place, entry, PointBox, point=point)
        for axis, low, high in zip("xyz", box.lower_m, box.upper_m, strict=True):
            if low >= high:
                raise SafetyProfileError(f"{place}: expected lower_m below upper_m, found {axis} {low:g} and {high:g}")
        boxes.append(box)
    if not boxes:
        raise SafetyProfileError(f"{where}: expected a box for each watched point, found none")
    return tuple(sorted(boxes, key=lambda box: box.point))


def _polytopes(where: str, data: object) -> tuple[Polytope, ...]:
    polytopes: list[Polytope] = []
    for name, entry in mapping(where, data).items():
        place = f"{where}: {name}"
        section = mapping(place, entry)
        check_keys(place, section, ("points", "planes"), ("points", "planes"))
        points = tuple(string(place, "points", point) for point in sequence(place, "points", section["points"]))
        planes = tuple(
            parse_section(f"{place}: planes[{index}]", plane, Plane)
            for index, plane in enumerate(sequence(place, "planes", section["planes"]))
        )
        if not points or not planes:
            raise SafetyProfileError(f"{place}: expected at least one point and one plane")
        polytopes.append(Polytope(name, points, planes))
    return tuple(sorted(polytopes, key=lambda polytope: polytope.name))


def _keep_outs(where: str, data: object) -> tuple[KeepOut, ...]:
    zones: list[KeepOut] = []
    for name, entry in mapping(where, data).items():
        place = f"{where}: {name}"
        section = dict(mapping(place, entry))
        shape = string(place, "shape", section.pop("shape", None))
        if shape not in SHAPES:
            hint = nearest_name_hint(shape, tuple(SHAPES))
            raise SafetyProfileError(f"{place}: shape: expected one of {', '.join(SHAPES)}, found {shape!r}{hint}")
        listed = sequence(place, "spares", section.pop("spares", []))
        spares = tuple(sorted({string(place, "spares", capsule) for capsule in listed}))
        zone: KeepOut = parse_section(place, section, SHAPES[shape], name=name, spares=spares)
        if isinstance(zone, BoxZone) and min(zone.half_size_m) <= 0.0:
            raise SafetyProfileError(f"{place}: half_size_m: expected positive sizes, found {list(zone.half_size_m)}")
        if isinstance(zone, (CapsuleZone, CylinderZone)) and zone.start_m == zone.end_m:
            raise SafetyProfileError(f"{place}: expected start_m and end_m to differ; a ball is a sphere")
        zones.append(zone)
    return tuple(sorted(zones, key=lambda zone: zone.name))
