"""The bare tabletop scene: arm, table, floor, lights and the fixed camera; tasks add their objects to it.

The base frame of the arm is the world frame: origin at the foot of the arm, x forward over the table, z up, and the
table's upper face at z = 0. Centres of objects belong in :data:`WORKSPACE_X` x :data:`WORKSPACE_Y`, which fills
the picture of the camera ``workspace``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import mujoco
import numpy as np

from controllers.robot import RobotDescription

WORKSPACE_X = (0.35, 0.59)
WORKSPACE_Y = (-0.22, 0.22)
TABLE_X = (0.10, 0.90)
TABLE_Y = (-0.60, 0.60)
PHYSICS_TIMESTEP = 0.0025

_TABLE_THICKNESS = 0.04
_FLOOR_Z = -0.75
_CAMERA_POSITION = (1.02, 0.10, 0.84)
_CAMERA_TARGET = (0.465, 0.0, 0.05)
_CAMERA_FOVY_DEG = 35.0

Rgb = tuple[float, float, float]

# Muted colours, all far from the saturated colours of the objects.
_TABLE_COLOURS: tuple[Rgb, ...] = (
    (0.72, 0.66, 0.58),  # birch
    (0.60, 0.60, 0.62),  # grey laminate
    (0.52, 0.44, 0.37),  # oak
    (0.78, 0.78, 0.76),  # white laminate
    (0.44, 0.47, 0.50),  # slate
)
_BACKDROP_COLOURS: tuple[Rgb, ...] = ((0.34, 0.36, 0.40), (0.47, 0.46, 0.44), (0.28, 0.31, 0.33))


@dataclass(frozen=True)
class SceneLook:
    """What varies in a scene without changing its physics.

    Attributes:
        table_rgb: Main colour of the table, each channel in [0, 1].
        table_pattern: ``flat``, ``checker`` or ``gradient``.
        table_contrast: Difference in brightness between the two colours of the pattern, in [0, 1].
        table_repeat: Tiles of the pattern over the table (1 for gradients).
        backdrop_rgb: Colour of the floor around the table.
        light_direction: (3,) direction in which the key light shines.
        key_light: Brightness of the key light.
        ambient_light: Brightness of the light from everywhere.
        camera_offset: (3,) displacement of the workspace camera, m.
        camera_turn_deg: (3,) small rotation of the workspace camera about its own axes, degrees.
        camera_fovy_offset_deg: Change of its vertical field of view, degrees.
    """

    table_rgb: Rgb = _TABLE_COLOURS[0]
    table_pattern: str = "flat"
    table_contrast: float = 0.0
    table_repeat: float = 1.0
    backdrop_rgb: Rgb = _BACKDROP_COLOURS[0]
    light_direction: Rgb = (-0.35, 0.25, -0.90)
    key_light: float = 0.55
    ambient_light: float = 0.42
    camera_offset: Rgb = (0.0, 0.0, 0.0)
    camera_turn_deg: Rgb = (0.0, 0.0, 0.0)
    camera_fovy_offset_deg: float = 0.0

    @staticmethod
    def sample(rng: np.random.Generator) -> SceneLook:
        """Draw a mild variation: the number of draws from ``rng`` is fixed."""
        table = np.array(_TABLE_COLOURS[rng.integers(len(_TABLE_COLOURS))])
        pattern = ("flat", "checker", "gradient")[rng.integers(3)]
        backdrop = np.array(_BACKDROP_COLOURS[rng.integers(len(_BACKDROP_COLOURS))])
        azimuth, tilt = rng.uniform(-math.pi, math.pi), rng.uniform(0.15, 0.75)
        direction = (math.sin(tilt) * math.cos(azimuth), math.sin(tilt) * math.sin(azimuth), -math.cos(tilt))
        contrast, repeat = rng.uniform(0.03, 0.10), float(rng.integers(3, 9))
        return SceneLook(
            table_rgb=_rgb(table + rng.uniform(-0.04, 0.04, 3)),
            table_pattern=pattern,
            table_contrast=_rounded(contrast),
            table_repeat=repeat,
            backdrop_rgb=_rgb(backdrop + rng.uniform(-0.03, 0.03, 3)),
            light_direction=_vector(np.array(direction)),
            key_light=_rounded(rng.uniform(0.40, 0.65)),
            ambient_light=_rounded(rng.uniform(0.34, 0.48)),
            camera_offset=_vector(rng.uniform(-0.01, 0.01, 3)),
            camera_turn_deg=_vector(rng.uniform(-1.5, 1.5, 3)),
            camera_fovy_offset_deg=_rounded(rng.uniform(-1.0, 1.0)),
        )


@dataclass(frozen=True)
class CompiledScene:
    """A model and the XML text that reproduces it bit for bit.

    Attributes:
        xml: Complete MJCF; it names no other file.
        model: ``MjModel.from_xml_string(xml)``.
    """

    xml: str
    model: mujoco.MjModel


def base_scene(description: RobotDescription, rng: np.random.Generator, look: SceneLook | None = None) -> mujoco.MjSpec:
    """Build the scene without objects.

    Args:
        description: The arm; its names (joints, sites, actuators) stay as they are, without a prefix.
        rng: Source of the look, when none is given.
        look: A fixed look, or None to sample one.

    Returns:
        A spec that still can be edited; finish it with :func:`compile_scene`.
    """
    look = SceneLook.sample(rng) if look is None else look
    spec = mujoco.MjSpec.from_file(str(description.model_path))
    spec.modelname = f"tabletop_{description.name}"
    _set_physics(spec)
    _add_surroundings(spec, look)
    _add_lights(spec, look)
    _add_workspace_camera(spec, look)
    return spec


def compile_scene(spec: mujoco.MjSpec) -> CompiledScene:
    """Compile through XML, so that the logged text and the running model are the same.

    Printing MJCF rounds some numbers; a model compiled from the spec itself would therefore differ from the one
    that a reader of the log rebuilds.

    Raises:
        ValueError: The scene refers to mesh, texture or height-field files, which the text would not hold.
    """
    files = [item.file for group in (spec.meshes, spec.textures, spec.hfields) for item in group if item.file]
    if files:
        raise ValueError(
            f"expected a scene made of primitives and builtin textures, found asset files {files}; "
            "an episode log holds the XML only"
        )
    spec.compile()
    xml = spec.to_xml()
    return CompiledScene(xml, mujoco.MjModel.from_xml_string(xml))


def model_digest(model: mujoco.MjModel) -> str:
    """BLAKE2b of the whole binary model, 32 hex digits: equal digests simulate and look the same."""
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.blake2b(buffer.tobytes(), digest_size=16).hexdigest()


def _set_physics(spec: mujoco.MjSpec) -> None:
    option = spec.option
    option.timestep = PHYSICS_TIMESTEP
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    # Friction harder than the normal direction by this ratio: what is held does not creep out of the fingers.
    option.impratio = 10.0
    visual = spec.visual
    visual.quality.offsamples = 0
    visual.quality.shadowsize = 0
    visual.map.znear = 0.01
    visual.map.zfar = 4.0
    spec.stat.extent = 1.0
    spec.stat.center[:] = [0.45, 0.0, 0.1]


def _add_surroundings(spec: mujoco.MjSpec, look: SceneLook) -> None:
    world = spec.worldbody
    spec.add_material(name="backdrop", rgba=[*look.backdrop_rgb, 1.0], specular=0.0, shininess=0.0)
    table = spec.add_material(name="table", specular=0.1, shininess=0.1)
    if look.table_pattern == "flat":
        table.rgba[:] = [*look.table_rgb, 1.0]
    else:
        _add_table_texture(spec, look)
        table.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
        repeat = look.table_repeat if look.table_pattern == "checker" else 1.0
        table.texrepeat[:] = [repeat, repeat]
    centre = (0.5 * sum(TABLE_X), 0.5 * sum(TABLE_Y), -0.5 * _TABLE_THICKNESS)
    half = (0.5 * (TABLE_X[1] - TABLE_X[0]), 0.5 * (TABLE_Y[1] - TABLE_Y[0]), 0.5 * _TABLE_THICKNESS)
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=centre,
        size=half,
        material="table",
        friction=[0.9, 0.005, 0.0001],
    )
    world.add_geom(
        name="pedestal",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[-0.05, 0.0, 0.5 * _FLOOR_Z],
        size=[0.13, 0.13, -0.5 * _FLOOR_Z - 0.001],
        rgba=[0.30, 0.31, 0.33, 1.0],
        contype=0,
        conaffinity=0,
    )
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        pos=[0.4, 0.0, _FLOOR_Z],
        size=[3.0, 3.0, 0.1],
        material="backdrop",
    )


def _add_table_texture(spec: mujoco.MjSpec, look: SceneLook) -> None:
    checker = look.table_pattern == "checker"
    rgb = np.array(look.table_rgb)
    spec.add_texture(
        name="table",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER if checker else mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=_rgb(rgb + 0.5 * look.table_contrast),
        rgb2=_rgb(rgb - 0.5 * look.table_contrast),
        width=64,
        height=64,
    )


def _add_lights(spec: mujoco.MjSpec, look: SceneLook) -> None:
    ambient, key = look.ambient_light, look.key_light
    spec.visual.headlight.ambient[:] = [ambient] * 3
    spec.visual.headlight.diffuse[:] = [0.12] * 3
    spec.visual.headlight.specular[:] = [0.0] * 3
    spec.worldbody.add_light(
        name="key",
        directional=True,
        castshadow=False,
        pos=[0.5, 0.0, 2.0],
        dir=look.light_direction,
        ambient=[0.0] * 3,
        diffuse=[key] * 3,
        specular=[0.2] * 3,
    )


def _add_workspace_camera(spec: mujoco.MjSpec, look: SceneLook) -> None:
    position = np.array(_CAMERA_POSITION) + look.camera_offset
    rotation = _look_at(np.array(_CAMERA_POSITION), np.array(_CAMERA_TARGET))
    turn = np.empty(4)
    mujoco.mju_euler2Quat(turn, np.radians(look.camera_turn_deg), "xyz")
    nominal, quaternion = np.empty(4), np.empty(4)
    mujoco.mju_mat2Quat(nominal, rotation.ravel())
    mujoco.mju_mulQuat(quaternion, nominal, turn)
    spec.worldbody.add_camera(
        name="workspace",
        pos=position,
        quat=quaternion,
        fovy=_CAMERA_FOVY_DEG + look.camera_fovy_offset_deg,
    )


def _look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a camera at ``position`` that looks at ``target`` with world z up in the image."""
    backward = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    return np.column_stack([right, np.cross(backward, right), backward])


def _rounded(value: float) -> float:
    return round(float(value), 5)


def _vector(values: np.ndarray) -> Rgb:
    x, y, z = (_rounded(v) for v in values)
    return (x, y, z)


def _rgb(values: np.ndarray) -> Rgb:
    return _vector(np.clip(values, 0.0, 1.0))
