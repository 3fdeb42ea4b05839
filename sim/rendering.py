"""Offscreen pictures of a model's cameras, fast on software OpenGL.

One OpenGL context is kept for each process and shared by the renderers that follow one another (making a context takes
far longer than loading a scene into it). Shadows, reflections and multisampling are off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import mujoco
import mujoco.gl_context
import numpy as np

from controllers.names import nearest_name_hint
from controllers.types import ImageArray

_FLAGS_OFF = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
    mujoco.mjtRndFlag.mjRND_HAZE,
)
_MAX_GEOMS = 1000


class _SharedContext:
    """The process's OpenGL context."""

    context: Any = None  # a GLContext; the class depends on MUJOCO_GL
    owner_pid = -1


def _acquire_context(width: int, height: int) -> Any:
    if _SharedContext.context is None:
        _SharedContext.context = mujoco.gl_context.GLContext(width, height)
        _SharedContext.owner_pid = os.getpid()
    elif _SharedContext.owner_pid != os.getpid():
        # The driver's threads do not survive a fork: any use of the inherited context waits for them forever.
        raise RuntimeError(
            "expected a process that was started afresh, found one forked after its parent had rendered; start "
            "worker processes with the method 'spawn' (gymnasium: AsyncVectorEnv(..., context='spawn'))"
        )
    return _SharedContext.context


def close_shared_context() -> None:
    """Free the process's OpenGL context; call it before the interpreter exits, with no renderer open."""
    if _SharedContext.context is not None and _SharedContext.owner_pid == os.getpid():
        _SharedContext.context.free()
    _SharedContext.context = None


class CameraRenderer:
    """Renders a fixed set of cameras of one model. Close it, or use it as a context manager.

    Create and use it in one thread: an OpenGL context is current in one thread at a time.
    """

    def __init__(self, model: mujoco.MjModel, cameras: Mapping[str, tuple[int, int]]) -> None:
        """Load the model's geometry and textures into the OpenGL context.

        Args:
            model: The scene.
            cameras: Camera name -> (height, width) in pixels.

        Raises:
            ValueError: A camera that the model does not have, or a size that is not positive.
        """
        self._model = model
        self._sizes = {name: _checked_size(model, name, size) for name, size in cameras.items()}
        self._ids = {name: model.camera(name).id for name in cameras}
        height = max((h for h, _ in self._sizes.values()), default=1)
        width = max((w for _, w in self._sizes.values()), default=1)
        self._context = _acquire_context(width, height)
        self._context.make_current()
        self._option = mujoco.MjvOption()
        self._perturb = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        for flag in _FLAGS_OFF:
            self._scene.flags[flag] = 0
        # The context allocates its frame buffer from the model's visual settings.
        visual = model.vis.global_
        kept = visual.offwidth, visual.offheight, model.vis.quality.offsamples
        visual.offwidth, visual.offheight, model.vis.quality.offsamples = width, height, 0
        self._gpu = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        visual.offwidth, visual.offheight, model.vis.quality.offsamples = kept
        self._closed = False

    @property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Camera name -> (height, width) in pixels."""
        return dict(self._sizes)

    def render(self, data: mujoco.MjData) -> dict[str, ImageArray]:
        """Render all cameras for the state in ``data``, whose kinematics must be up to date.

        Returns:
            Camera name -> (height, width, 3) uint8 RGB, read-only, row 0 at the top.
        """
        if self._closed:
            raise RuntimeError("expected an open renderer, found a closed one")
        self._context.make_current()
        # Another renderer of this process may have bound its own frame buffer since.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._gpu)
        return {name: self._render_one(data, name) for name in self._ids}

    def _render_one(self, data: mujoco.MjData, name: str) -> ImageArray:
        height, width = self._sizes[name]
        self._camera.fixedcamid = self._ids[name]
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._gpu)
        picture = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, viewport, self._gpu)
        upright = np.ascontiguousarray(picture[::-1])
        upright.flags.writeable = False
        return upright

    def close(self) -> None:
        """Free the scene's GPU memory; the process's OpenGL context stays for the next renderer."""
        if self._closed:
            return
        self._closed = True
        self._context.make_current()
        self._gpu.free()

    def __enter__(self) -> CameraRenderer:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _checked_size(model: mujoco.MjModel, name: str, size: tuple[int, int]) -> tuple[int, int]:
    names = [model.camera(i).name for i in range(model.ncam)]
    if name not in names:
        raise ValueError(f"expected a camera out of {names}, found {name!r}{nearest_name_hint(name, names)}")
    height, width = size
    if height <= 0 or width <= 0:
        raise ValueError(f"expected a positive (height, width) for camera {name!r}, found {size}")
    return (int(height), int(width))
