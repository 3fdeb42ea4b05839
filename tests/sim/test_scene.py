"""The tabletop scene: framed, varied, and the same again from its logged text."""

from __future__ import annotations

import subprocess
import sys

import mujoco
import numpy as np
import pytest

from controllers.robot import load_robot
from sim.rendering import CameraRenderer
from sim.scene import WORKSPACE_X, WORKSPACE_Y, SceneLook, base_scene, compile_scene, model_digest

CAMERAS = {"workspace": (128, 128), "wrist": (128, 128)}


def scene(seed: int = 0, look: SceneLook | None = None, blocks: bool = True) -> mujoco.MjSpec:
    spec = base_scene(load_robot("panda"), np.random.default_rng(seed), look)
    corners = [(x, y) for x in WORKSPACE_X for y in WORKSPACE_Y] if blocks else []
    for index, (x, y) in enumerate(corners):
        body = spec.worldbody.add_body(name=f"block{index}", pos=[x, y, 0.02])
        body.add_freejoint()
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.02] * 3, rgba=[1, 0, 1, 1])
    return spec


def at_home(model: mujoco.MjModel) -> mujoco.MjData:
    data = mujoco.MjData(model)
    data.qpos[:7] = load_robot("panda").home
    mujoco.mj_forward(model, data)
    return data


def test_logged_xml_reproduces_the_model_bit_for_bit_in_another_process() -> None:
    compiled = compile_scene(scene(3))
    again = compile_scene(mujoco.MjSpec.from_string(compiled.xml))
    program = (
        "import sys, mujoco; from sim.scene import model_digest;"
        "print(model_digest(mujoco.MjModel.from_xml_string(sys.stdin.read())))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], input=compiled.xml, capture_output=True, text=True, check=True
    )
    assert again.xml == compiled.xml
    assert model_digest(compiled.model) == model_digest(again.model) == result.stdout.strip()


def test_same_seed_gives_same_scene_and_other_seed_another_look() -> None:
    first, same, other = (compile_scene(scene(seed)).xml for seed in (5, 5, 6))
    assert first == same
    assert first != other


def test_arm_keeps_its_names_and_stands_at_the_world_origin() -> None:
    description = load_robot("panda")
    model = compile_scene(scene()).model
    names = [model.joint(i).name for i in range(description.n)]
    assert tuple(names) == description.joint_names
    assert {model.camera(i).name for i in range(model.ncam)} == set(CAMERAS)
    assert model.body("base").pos.tolist() == [0.0, 0.0, 0.0]


def test_look_does_not_change_the_physics() -> None:
    states = []
    for look in (SceneLook(), SceneLook.sample(np.random.default_rng(1))):
        model = compile_scene(scene(look=look)).model
        data = at_home(model)
        mujoco.mj_step(model, data, 50)
        states.append(data.qpos.copy())
    assert np.array_equal(*states)


def test_scene_with_asset_files_is_refused() -> None:
    spec = scene()
    spec.add_mesh(name="cup", file="cup.obj")
    with pytest.raises(ValueError, match="asset files"):
        compile_scene(spec)


@pytest.mark.gl
@pytest.mark.parametrize("seed", range(12))
def test_all_corners_of_the_working_area_are_in_the_picture(seed: int) -> None:
    with_blocks, without = (compile_scene(scene(seed, blocks=b)).model for b in (True, False))
    with CameraRenderer(with_blocks, CAMERAS) as renderer:
        shown = renderer.render(at_home(with_blocks))["workspace"]
    magenta = (shown[..., 0] > 1.6 * shown[..., 1].astype(float)) & (shown[..., 2] > 1.6 * shown[..., 1])
    count, labels = _components(magenta)
    border = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist()) - {0}
    assert count == 4, "one block in each corner"
    assert not border, "no block touches the border"
    with CameraRenderer(without, CAMERAS) as renderer:
        empty = renderer.render(at_home(without))["workspace"]
    assert not np.array_equal(shown, empty)


def _components(mask: np.ndarray) -> tuple[int, np.ndarray]:
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return int(count), np.asarray(labels)


@pytest.mark.gl
def test_pictures_are_upright_read_only_and_repeatable() -> None:
    model = compile_scene(scene()).model
    data = at_home(model)
    with CameraRenderer(model, {"workspace": (96, 128)}) as renderer:
        first, second = renderer.render(data)["workspace"], renderer.render(data)["workspace"]
    assert first.shape == (96, 128, 3)
    assert first.dtype == np.uint8
    assert not first.flags.writeable
    assert np.array_equal(first, second)
    # The white arm comes in from above.
    assert (first[:40].min(axis=2) > 200).sum() > (first[-40:].min(axis=2) > 200).sum()


@pytest.mark.gl
def test_closed_renderer_refuses_and_next_one_works() -> None:
    model = compile_scene(scene()).model
    data = at_home(model)
    renderer = CameraRenderer(model, CAMERAS)
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.render(data)
    with CameraRenderer(model, CAMERAS) as other:
        assert set(other.render(data)) == set(CAMERAS)


@pytest.mark.gl
def test_two_open_renderers_do_not_disturb_each_other() -> None:
    models = [compile_scene(scene(seed)).model for seed in (0, 1)]
    alone = []
    for model in models:
        with CameraRenderer(model, CAMERAS) as renderer:
            alone.append(renderer.render(at_home(model))["workspace"])
    with CameraRenderer(models[0], CAMERAS) as a, CameraRenderer(models[1], {"workspace": (128, 128)}) as b:
        assert np.array_equal(a.render(at_home(models[0]))["workspace"], alone[0])
        assert np.array_equal(b.render(at_home(models[1]))["workspace"], alone[1])
        assert np.array_equal(a.render(at_home(models[0]))["workspace"], alone[0])


@pytest.mark.gl
def test_unknown_camera_names_the_known_ones_and_the_nearest() -> None:
    model = compile_scene(scene()).model
    with pytest.raises(ValueError, match=r"'workspace', 'wrist'.*'workspce'.*workspace") as caught:
        CameraRenderer(model, {"workspce": (64, 64)})
    assert "wrist" in str(caught.value)
    with pytest.raises(ValueError, match="positive"):
        CameraRenderer(model, {"wrist": (0, 64)})
