"""The visible geoms of a MuJoCo model as triangle meshes in the frames of their bodies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import mujoco
import numpy as np
import numpy.typing as npt

from controllers.spatial import rotation_matrix
from controllers.types import FloatArray
from episodes.extras import load

_LAST_VISIBLE_GROUP = 2  # what MuJoCo's own viewer shows unless told otherwise
_INFINITE_PLANE_M = 1.5  # half the side of what is drawn of a plane without end
_mujoco = cast(Any, mujoco)


@dataclass(frozen=True, slots=True)
class GeomMesh:
    """One geom.

    Attributes:
        name: Its name, or a made-up one.
        body: Index of its body.
        vertices: (V, 3) m, body frame.
        faces: (F, 3) vertex indices.
        color: RGB, 0 to 255.
        opacity: 0 to 1.
    """

    name: str
    body: int
    vertices: FloatArray
    faces: npt.NDArray[np.int64]
    color: tuple[int, int, int]
    opacity: float


def geom_meshes(model: Any) -> Iterator[GeomMesh]:
    """Every geom that MuJoCo's viewer would show.

    Raises:
        EpisodeError: ``trimesh`` is not installed.
    """
    for geom in range(int(model.ngeom)):
        rgba = _rgba(model, geom)
        if int(model.geom_group[geom]) > _LAST_VISIBLE_GROUP or rgba[3] <= 0.0:
            continue
        shape = _shape(model, geom)
        if shape is None:
            continue
        vertices, faces = shape
        rotation = rotation_matrix(np.array(model.geom_quat[geom]))
        placed = vertices @ rotation.T + np.array(model.geom_pos[geom])
        red, green, blue = (round(255 * float(value)) for value in rgba[:3])
        name = str(model.geom(geom).name) or f"geom_{geom}"
        yield GeomMesh(name, int(model.geom_bodyid[geom]), placed, faces, (red, green, blue), float(rgba[3]))


def _rgba(model: Any, geom: int) -> FloatArray:
    material = int(model.geom_matid[geom])
    values = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
    return np.clip(np.array(values, np.float64), 0.0, 1.0)


def _shape(model: Any, geom: int) -> tuple[FloatArray, npt.NDArray[np.int64]] | None:
    kind, size = int(model.geom_type[geom]), np.array(model.geom_size[geom], np.float64)
    kinds = _mujoco.mjtGeom
    create = load("trimesh.creation", "viz")
    match kind:
        case kinds.mjGEOM_PLANE:
            half = np.where(size[:2] > 0.0, size[:2], _INFINITE_PLANE_M)
            mesh = create.box(extents=(2 * half[0], 2 * half[1], 1e-3))
        case kinds.mjGEOM_SPHERE:
            mesh = create.icosphere(subdivisions=2, radius=size[0])
        case kinds.mjGEOM_CAPSULE:
            mesh = create.capsule(radius=size[0], height=2 * size[1], count=(12, 12))
            mesh.apply_translation(-np.asarray(mesh.bounds).mean(axis=0))
        case kinds.mjGEOM_ELLIPSOID:
            mesh = create.icosphere(subdivisions=2, radius=1.0)
            mesh.apply_scale(size)
        case kinds.mjGEOM_CYLINDER:
            mesh = create.cylinder(radius=size[0], height=2 * size[1], sections=24)
        case kinds.mjGEOM_BOX:
            mesh = create.box(extents=2 * size)
        case kinds.mjGEOM_MESH:
            return _mesh(model, int(model.geom_dataid[geom]))
        case _:
            return None  # height fields and signed distance fields
    return np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.int64)


def _mesh(model: Any, mesh: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
    face, faces = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
    vertices = np.array(model.mesh_vert[first : first + count], np.float64)
    return vertices, np.array(model.mesh_face[face : face + faces], np.int64)
