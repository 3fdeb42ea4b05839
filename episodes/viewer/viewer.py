"""The viewer: a viser server that shows one tick of an episode at a time."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

import numpy as np

from controllers.spatial import rotate
from controllers.types import FloatArray
from episodes.episode import Episode
from episodes.extras import load
from episodes.viewer.geometry import geom_meshes
from episodes.viewer.motion import BodyMotion
from episodes.viewer.panels import events_panel, margins_panel, state_panel, tokens_panel
from episodes.viewer.traces import WINDOW_S, Plot, plots, times_s, window

EXTRA = "viz"
_REFRESH_S = 0.05  # pictures a second while playing: 20
_FORCE_SCALE_M = 0.005  # of an arrow, for 1 N
_SPEEDS = ("0.1x", "0.25x", "0.5x", "1x", "2x", "4x")
_AXIS_M = 0.08


class Viewer:
    """Serves one episode as a web page. Use it as a context manager, or :meth:`open` and :meth:`close` it.

    :meth:`show` is what the page's slider calls; a test can call it too, or set :attr:`slider`.
    """

    def __init__(
        self, episode: Episode, motion: BodyMotion | None, *, host: str = "127.0.0.1", port: int = 8080
    ) -> None:
        """Prepare; nothing is served before :meth:`open`.

        Args:
            episode: At least one tick.
            motion: Where the bodies were; None shows the end effector alone.
            host: Address to serve on; the default is this machine alone.
            port: 0 for any free one.
        """
        self._episode = episode
        self._motion = motion
        self._host, self._port = host, port
        self._times = times_s(episode)
        self._plots = plots(episode)
        self._player: threading.Thread | None = None
        self._playing = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self.index = 0

    def open(self) -> Self:
        """Serve the page and show the first tick.

        Raises:
            EpisodeError: ``viser`` is not installed.
        """
        viser = load("viser", EXTRA)
        self.server: Any = viser.ViserServer(host=self._host, port=self._port, verbose=False)
        self.server.gui.configure_theme(control_width="large")
        self.server.gui.main_panel.dock_right()
        self._build_scene()
        self._build_controls()
        self.show(0)
        self._player = threading.Thread(target=self._play, name="viewer", daemon=True)
        self._player.start()
        return self

    def __enter__(self) -> Self:
        """Open."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{self._host}:{self.server.get_port()}"

    def close(self) -> None:
        """Stop playing and serving."""
        self._closing.set()
        self._playing.set()
        if self._player is not None:
            self._player.join()
        self.server.stop()

    # ------------------------------------------------------------------------------------------ building

    def _build_scene(self) -> None:
        scene = self.server.scene
        scene.set_up_direction("+z")
        scene.add_grid("/floor", width=3.0, height=3.0, cell_size=0.1, plane="xy", position=(0.0, 0.0, -1e-3))
        self.bodies: dict[int, Any] = {}
        if self._motion is not None:
            for mesh in geom_meshes(self._motion.model):
                if mesh.body not in self.bodies:
                    self.bodies[mesh.body] = scene.add_frame(f"/bodies/{mesh.body}", show_axes=False)
                scene.add_mesh_simple(
                    f"/bodies/{mesh.body}/{mesh.name}",
                    mesh.vertices,
                    mesh.faces,
                    color=mesh.color,
                    opacity=None if mesh.opacity >= 1.0 else mesh.opacity,
                    flat_shading=True,
                )
        self.measured = scene.add_frame("/end_effector", axes_length=_AXIS_M, axes_radius=0.003)
        self.target = scene.add_frame("/target", axes_length=_AXIS_M, axes_radius=0.0015, origin_color=(217, 72, 15))
        self.force = scene.add_line_segments("/force", np.zeros((1, 2, 3)), colors=(201, 42, 42), thickness=0.006)
        for name, poses, color in (
            ("/path/measured", self._episode.ticks.state_ee_pose, (47, 111, 222)),
            ("/path/target", self._episode.ticks.commanded_pose, (217, 72, 15)),
        ):
            path = _path(poses)
            if path is not None:
                scene.add_line_segments(name, path, colors=color, thickness=0.002)

    def _build_controls(self) -> None:
        gui, episode = self.server.gui, self._episode
        last = len(episode) - 1
        gui.add_markdown(f"**{episode.manifest.instruction}**  \n{episode.path.name}, {episode.manifest.task}")
        if self._motion is not None and self._motion.source:
            gui.add_markdown(f"*{self._motion.source}*")
        self.slider = gui.add_slider("tick", min=0, max=max(1, last), step=1, initial_value=0)
        self.play_button = gui.add_button("play")
        self.speed = gui.add_dropdown("speed", _SPEEDS, initial_value="1x")
        self.state = gui.add_html("")
        self.pictures = {
            camera: gui.add_image(np.zeros(episode.frames(camera, 0, 1).shape[1:], np.uint8), label=camera)
            for camera in episode.cameras
        }
        with gui.add_folder("tokens"):
            self.tokens = gui.add_html("")
        with gui.add_folder("margins to each limit"):
            self.margins = gui.add_html("")
        with gui.add_folder("targets, measured, forces"):
            self.plots = [self._add_plot(plot) for plot in self._plots]
        with gui.add_folder("events"):
            self.events = gui.add_html("")

        @self.slider.on_update
        def _(_event: Any) -> None:  # pyright: ignore[reportUnusedFunction]
            self.show(int(self.slider.value))

        @self.play_button.on_click
        def _(_event: Any) -> None:  # pyright: ignore[reportUnusedFunction]
            self.pause() if self._playing.is_set() else self.play()

    def _add_plot(self, plot: Plot) -> Any:
        uplot = load("viser.uplot", EXTRA)
        series = [uplot.Series(label="s from now")]
        for trace in plot.traces:
            dash = {"dash": (4, 4)} if trace.dashed else {}
            series.append(uplot.Series(label=trace.label, stroke=trace.color, width=2, **dash))
        scales = {"x": uplot.Scale(time=False, auto=False, range=(-WINDOW_S, WINDOW_S))}
        data = window(self._times, plot, 0)
        return self.server.gui.add_uplot(data, tuple(series), title=plot.title, scales=scales, height=140)

    # ------------------------------------------------------------------------------------------- showing

    def show(self, index: int) -> None:
        """Show the tick in row ``index``."""
        index = max(0, min(index, len(self._episode) - 1))
        if int(self.slider.value) != index:
            self.slider.value = index  # calls back
            return
        with self._lock, self.server.atomic():
            self.index = index
            self._show_scene(index)
            self._show_panels(index)

    def _show_scene(self, index: int) -> None:
        ticks, motion = self._episode.ticks, self._motion
        if motion is not None:
            for body, frame in self.bodies.items():
                frame.position = motion.position[index, body]
                frame.wxyz = motion.quaternion[index, body]
        for frame, pose in ((self.measured, ticks.state_ee_pose), (self.target, ticks.commanded_pose)):
            frame.visible = bool(np.isfinite(pose[index]).all())
            if frame.visible:
                frame.position, frame.wxyz = pose[index, :3], pose[index, 3:]
        wrist = ticks.state_ee_pose[index] if motion is None else motion.wrist[index]
        force = ticks.state_wrench[index, :3]
        self.force.visible = bool(np.isfinite(wrist).all() and np.isfinite(force).all())
        if self.force.visible:
            tip = wrist[:3] + _FORCE_SCALE_M * rotate(wrist[3:], force)
            self.force.points = np.stack([wrist[:3], tip])[None]

    def _show_panels(self, index: int) -> None:
        episode = self._episode
        self.state.content = state_panel(episode, index, float(self._times[index]))
        self.tokens.content = tokens_panel(episode, index)
        self.margins.content = margins_panel({} if self._motion is None else self._motion.margins, index)
        self.events.content = events_panel(episode.events, int(episode.ticks.tick[index]))
        for plot, handle in zip(self._plots, self.plots, strict=True):
            handle.data = window(self._times, plot, index)
        self._show_pictures(int(episode.ticks.state_stamp_ns[index]))

    def _show_pictures(self, now_ns: int) -> None:
        latest = int(np.searchsorted(self._episode.observations.stamp_ns, now_ns, "right")) - 1
        for camera, handle in self.pictures.items():
            seen = np.flatnonzero(self._episode.present(camera)[: latest + 1])
            picture = self._episode.image(camera, int(seen[-1])) if len(seen) else None
            if picture is not None:
                handle.image = picture

    # ------------------------------------------------------------------------------------------- playing

    def play(self) -> None:
        """Play from here, or from the start when at the end."""
        if self.index >= len(self._episode) - 1:
            self.show(0)
        self.play_button.label = "pause"
        self._playing.set()

    def pause(self) -> None:
        """Stand still."""
        self._playing.clear()
        self.play_button.label = "play"

    def _play(self) -> None:
        while self._playing.wait() and not self._closing.is_set():
            started, origin = time.monotonic(), float(self._times[self.index])
            expected = self.index
            while self._playing.is_set() and not self._closing.is_set() and self.index == expected:
                factor = float(str(self.speed.value).rstrip("x"))
                moment = origin + factor * (time.monotonic() - started)
                expected = min(int(np.searchsorted(self._times, moment)), len(self._times) - 1)
                self.show(expected)
                if expected == len(self._times) - 1:
                    self.pause()
                self._closing.wait(_REFRESH_S)


def _path(poses: FloatArray) -> FloatArray | None:
    """(S, 2, 3) line segments through the positions that are known; None for fewer than two."""
    points = poses[np.isfinite(poses[:, :3]).all(axis=1), :3]
    points = points[:: max(1, len(points) // 2000)]
    if len(points) < 2:
        return None
    return np.stack([points[:-1], points[1:]], axis=1)
