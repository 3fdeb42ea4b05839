"""The picture of ``vla safety show``: boxes, polytopes, keep-outs and the arm's hull, from three sides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection
from scipy.spatial import ConvexHull, QhullError

from cli.safety.shapes import HomePosture, box_corners, capsule_corners, keep_out_corners, polytope_corners
from controllers.robot import RobotDescription
from controllers.types import FloatArray
from safety.profile import SafetyProfile

_ARM = "#5b6b7d"
_KEEP_OUT = "#d1495b"
_POLYTOPE = "#2a9d8f"
_POINTS = ("#1d6fb8", "#e08e0b", "#7b4fb3", "#3a8f3a", "#b0518f", "#7a5c3e", "#0f8b8d", "#555555")
_LIGHT = np.array([0.35, -0.55, 0.76])
_MARGIN_M = 0.05


@dataclass(frozen=True)
class _Scene:
    """All that is drawn, as corners (k, 3) of convex shapes, m, base frame."""

    hull: list[FloatArray]
    boxes: dict[str, FloatArray]
    points: dict[str, FloatArray]
    polytopes: dict[str, FloatArray]
    keep_outs: dict[str, FloatArray]
    lower: FloatArray
    upper: FloatArray

    def dashes(self, point: str) -> str | tuple[int, tuple[int, int]]:
        """Dashed where an earlier point has the same box, so that both can be seen."""
        names = list(self.boxes)
        earlier = names[: names.index(point)]
        return (0, (5, 5)) if any(np.array_equal(self.boxes[name], self.boxes[point]) for name in earlier) else "-"

    def colour(self, point: str) -> str:
        return _POINTS[list(self.points).index(point) % len(_POINTS)]


def draw(profile: SafetyProfile, robot: RobotDescription, out: Path) -> None:
    """Draw a profile and its robot at home to a PNG.

    Args:
        profile: What to draw.
        robot: The robot that it is meant for.
        out: Where to write.
    """
    scene = _scene(profile, robot)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9.5, "axes.edgecolor": "#b8bec6"}):
        figure = Figure(figsize=(15, 9), facecolor="white")
        grid = figure.add_gridspec(
            2, 2, width_ratios=(1.45, 1), left=0.0, right=0.985, top=0.9, bottom=0.105, wspace=0.04, hspace=0.2
        )
        solid = figure.add_subplot(grid[:, 0], projection="3d")
        assert isinstance(solid, Axes3D)
        _draw_solid(solid, scene)
        _draw_flat(figure.add_subplot(grid[0, 1]), scene, (0, 1), "from above")
        _draw_flat(figure.add_subplot(grid[1, 1]), scene, (0, 2), "from the side")
        figure.text(0.03, 0.95, profile.name, fontsize=19, weight="bold", color="#22303c")
        figure.text(
            0.03,
            0.92,
            f"{robot.name} at home, hull of {len(robot.capsules)} capsules; metres in the base frame; "
            f"profile {profile.hash}",
            fontsize=10.5,
            color="#5a6672",
        )
        _legend(figure, scene)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=110)


def _scene(profile: SafetyProfile, robot: RobotDescription) -> _Scene:
    home = HomePosture(robot)
    hull = [capsule_corners(*capsule) for capsule in home.capsules]
    boxes = {box.point: box_corners(np.array(box.lower_m), np.array(box.upper_m)) for box in profile.workspace}
    everything = np.vstack([*hull, *boxes.values()])
    lower, upper = everything.min(axis=0) - _MARGIN_M, everything.max(axis=0) + _MARGIN_M
    polytopes = {p.name: polytope_corners(p.planes, lower, upper) for p in profile.polytopes}
    keep_outs = {zone.name: keep_out_corners(zone, lower, upper) for zone in profile.keep_outs}
    points = {name: place for name, place in home.points.items() if name in boxes}
    return _Scene(hull, boxes, points, polytopes, keep_outs, lower, upper)


# ------------------------------------------------------------------------------------------------ in space


def _draw_solid(axes: Axes3D, scene: _Scene) -> None:
    axes.set_proj_type("persp", focal_length=0.9)
    axes.view_init(elev=22, azim=-58)
    axes.computed_zorder = False
    _floor(axes, scene)
    for name, corners in scene.boxes.items():
        edges = [(corners[a], corners[b]) for a in range(8) for b in range(a) if (a ^ b).bit_count() == 1]
        axes.add_collection3d(
            Line3DCollection(edges, colors=scene.colour(name), linewidths=1.3, linestyles=scene.dashes(name), zorder=2)
        )
    for zones, colour in ((scene.polytopes, _POLYTOPE), (scene.keep_outs, _KEEP_OUT)):
        for corners in zones.values():
            faces, normals = _faces(corners)
            if len(faces):
                axes.add_collection3d(Poly3DCollection(faces, facecolors=_shade(normals, colour, 0.3), zorder=3))
    # One collection for all capsules, so that their faces are sorted by depth among each other.
    arm = [_faces(corners) for corners in scene.hull]
    faces, normals = np.vstack([face for face, _ in arm]), np.vstack([normal for _, normal in arm])
    colours = _shade(normals, _ARM, 1.0)
    axes.add_collection3d(Poly3DCollection(faces, facecolors=colours, edgecolors=colours, linewidths=0.4, zorder=4))
    for name, place in scene.points.items():
        axes.plot(*place[:, None], "o", color=scene.colour(name), markersize=7, markeredgecolor="white", zorder=6)
    for axis, name in enumerate("xyz"):
        getattr(axes, f"set_{name}lim")(scene.lower[axis], scene.upper[axis])
        getattr(axes, f"set_{name}label")(f"{name}, m", labelpad=8)
        getattr(axes, f"{name}axis").pane.set_visible(False)
        getattr(axes, f"{name}axis")._axinfo["grid"].update(color="#e3e7eb", linewidth=0.6)
    axes.set_box_aspect(tuple(scene.upper - scene.lower), zoom=1.12)  # pyright: ignore[reportArgumentType]


def _floor(axes: Axes3D, scene: _Scene) -> None:
    """The plane z = 0, on which a table-top arm stands."""
    (x0, y0, _), (x1, y1, _) = scene.lower, scene.upper
    floor = [[(x0, y0, 0.0), (x1, y0, 0.0), (x1, y1, 0.0), (x0, y1, 0.0)]]
    axes.add_collection3d(Poly3DCollection(floor, facecolors="#8d99a6", alpha=0.13, zorder=1))


def _faces(corners: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Triangles (k, 3, 3) of a convex hull and their outward normals (k, 3); none for what has no volume."""
    try:
        hull = ConvexHull(corners)
    except (QhullError, ValueError):
        return np.zeros((0, 3, 3)), np.zeros((0, 3))
    return corners[hull.simplices], hull.equations[:, :3]


def _shade(normals: FloatArray, colour: str, alpha: float) -> FloatArray:
    """Colours (k, 4) of faces in soft light."""
    base = np.array(to_rgb(colour))
    light = 0.5 + 0.5 * normals @ (_LIGHT / np.linalg.norm(_LIGHT))
    tone = np.clip(base[None] * (0.55 + 0.75 * light[:, None]) + 0.12 * light[:, None], 0.0, 1.0)
    return np.hstack([tone, np.full((len(normals), 1), alpha)])


# ---------------------------------------------------------------------------------------------- projections


def _draw_flat(axes: Axes, scene: _Scene, plane: tuple[int, int], title: str) -> None:
    keep = list(plane)
    for name, corners in scene.boxes.items():
        colour = scene.colour(name)
        axes.add_patch(Polygon(_outline(corners[:, keep]), fc=colour, ec=colour, alpha=0.05, zorder=1))
        axes.add_patch(
            Polygon(_outline(corners[:, keep]), fc="none", ec=colour, lw=1.5, ls=scene.dashes(name), zorder=2)
        )
    for zones, colour, hatch in ((scene.polytopes, _POLYTOPE, ""), (scene.keep_outs, _KEEP_OUT, "///")):
        for name, corners in zones.items():
            outline = _outline(corners[:, keep])
            if len(outline) == 0:
                continue
            axes.add_patch(Polygon(outline, fc=colour, ec=colour, lw=1.4, alpha=0.28, hatch=hatch, zorder=3))
            _label(axes, name, outline, "#8f2433" if hatch else "#17665d")
    for corners in scene.hull:
        axes.add_patch(Polygon(_outline(corners[:, keep]), fc=_ARM, ec="white", lw=0.8, alpha=0.72, zorder=4))
    for name, place in scene.points.items():
        axes.plot(*place[keep], "o", color=scene.colour(name), markersize=6.5, markeredgecolor="white", zorder=6)
    if plane[1] == 2:
        axes.axhline(0.0, color="#8d99a6", lw=1.2, zorder=1.5)
    first, second = plane
    axes.set_xlim(scene.lower[first], scene.upper[first])
    axes.set_ylim(scene.lower[second], scene.upper[second])
    axes.set_aspect("equal")
    axes.grid(color="#e3e7eb", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color="#b8bec6", labelcolor="#5a6672")
    axes.set_title(title, loc="left", fontsize=11, color="#22303c")
    axes.set_xlabel(f"{'xyz'[first]}, m")
    axes.set_ylabel(f"{'xyz'[second]}, m")


def _label(axes: Axes, name: str, outline: FloatArray, colour: str) -> None:
    """The name of a zone in its middle, along its longer side."""
    low, high = outline.min(axis=0), outline.max(axis=0)
    upright = high[1] - low[1] > 3.0 * (high[0] - low[0])
    text = axes.text(
        0.5 * (low[0] + high[0]),
        0.5 * (low[1] + high[1]),
        name,
        color=colour,
        ha="center",
        va="center",
        rotation=90 if upright else 0,
        zorder=7,
    )
    text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white", alpha=0.85)])


def _outline(corners: FloatArray) -> FloatArray:
    """The convex outline (k, 2) of points in a plane; empty for what has no area."""
    try:
        return corners[ConvexHull(corners).vertices]
    except (QhullError, ValueError):
        return np.zeros((0, 2))


def _legend(figure: Figure, scene: _Scene) -> None:
    entries: list[Line2D | Patch] = [
        Line2D([], [], color=scene.colour(name), marker="o", markeredgecolor="white", markersize=8, lw=2, label=name)
        for name in scene.points
    ]
    entries.append(Patch(color=_ARM, alpha=0.8, label="hull of the arm"))
    if scene.polytopes:
        entries.append(Patch(color=_POLYTOPE, alpha=0.35, label="polytope: points stay in"))
    if scene.keep_outs:
        entries.append(Patch(fc=_KEEP_OUT, ec=_KEEP_OUT, alpha=0.35, hatch="///", label="keep-out: hull stays out"))
    figure.legend(
        handles=entries,
        loc="lower center",
        ncols=len(entries),
        frameon=False,
        title="watched points (dots) and their boxes (lines of the same colour)",
        bbox_to_anchor=(0.5, 0.0),
    )
