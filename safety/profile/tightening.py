"""Whether one profile is nowhere looser than another: limits may be tightened at run time, never loosened."""

from __future__ import annotations

from dataclasses import replace

from safety.profile.errors import SafetyProfileError
from safety.profile.fields import looser_numbers
from safety.profile.profile import SafetyProfile
from safety.profile.zones import KeepOut

_SECTIONS = (
    "joints",
    "end_effector",
    "gripper",
    "force",
    "stopping",
    "timing",
    "monitoring",
    "hold",
    "self_collision",
)


def check_tighter(old: SafetyProfile, new: SafetyProfile) -> None:
    """Check that ``new`` allows nothing that ``old`` forbids.

    Raises:
        SafetyProfileError: It does; every looser entry is named.
    """
    if old.robot != new.robot:
        raise SafetyProfileError(f"expected a profile for robot {old.robot!r}, found {new.robot!r}")
    found = loosened(old, new)
    if found:
        raise SafetyProfileError(
            f"profile {new.name!r} is looser than {old.name!r}, which is in force: {'; '.join(found)}. "
            "Limits can be tightened while running; to loosen them, restart"
        )


def loosened(old: SafetyProfile, new: SafetyProfile) -> tuple[str, ...]:
    """Every entry in which ``new`` is looser than ``old``, in words."""
    found: list[str] = []
    for section in _SECTIONS:
        found += looser_numbers(section, getattr(old, section), getattr(new, section))
    found += [
        f"self_collision.ignore: {first} and {second}"
        for first, second in new.self_collision.ignore
        if (first, second) not in old.self_collision.ignore
    ]
    for box in old.workspace:
        other = new.box(box.point)
        if any(after < before for before, after in zip(box.lower_m, other.lower_m, strict=True)) or any(
            after > before for before, after in zip(box.upper_m, other.upper_m, strict=True)
        ):
            found.append(f"workspace.{box.point}: a larger box")
    found += [f"keep_outs.{zone.name}: {change}" for zone in old.keep_outs if (change := _freed(zone, new.keep_outs))]
    found += [f"polytopes.{region.name}: changed or gone" for region in old.polytopes if region not in new.polytopes]
    return (*found, *_cone(old, new), *_carried(old, new))


def _freed(zone: KeepOut, keep_outs: tuple[KeepOut, ...]) -> str:
    """What a zone no longer forbids, in words; empty if it still forbids all that it did."""
    for other in keep_outs:
        if replace(other, spares=zone.spares) == zone:
            more = [name for name in other.spares if name not in zone.spares]
            return f"spares {', '.join(more)}" if more else ""
    return "changed or gone"


def _cone(old: SafetyProfile, new: SafetyProfile) -> tuple[str, ...]:
    before, after = old.orientation, new.orientation
    if before is None:
        return ()
    if after is None:
        return ("orientation: gone",)
    if (before.tool_axis, before.direction) != (after.tool_axis, after.direction):
        return ("orientation: another axis",)
    return tuple(looser_numbers("orientation", before, after))


def _carried(old: SafetyProfile, new: SafetyProfile) -> tuple[str, ...]:
    before, after = old.carried_object, new.carried_object
    if before is None:
        return ()
    if after is None:
        return ("carried_object: gone",)
    if before.centre_m != after.centre_m:
        return ("carried_object.centre_m: moved",)
    return tuple(looser_numbers("carried_object", before, after))
