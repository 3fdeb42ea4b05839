"""The viewer as a browser meets it: a page over http, a websocket, and a scene that moves with the slider."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from episodes.reader import open_episode
from episodes.viewer.geometry import geom_meshes
from episodes.viewer.motion import BodyMotion
from episodes.viewer.panels import events_panel, margins_panel, state_panel, tokens_panel
from episodes.viewer.traces import WINDOW_S, plots, times_s, window
from episodes.viewer.viewer import Viewer
from sim.watching import watched_motion
from tests.episodes.builders import record_plant, write_simple

pytest.importorskip("viser")


@pytest.fixture(scope="module")
def motion(real_episodes: list[Path]) -> BodyMotion:
    found = watched_motion(open_episode(real_episodes[0]))
    assert found is not None
    return found


@pytest.fixture
def viewer(real_episodes: list[Path], motion: BodyMotion) -> Iterator[Viewer]:
    with Viewer(open_episode(real_episodes[0]), motion, port=0) as opened:
        yield opened


@pytest.mark.gl
def test_the_motion_is_that_of_the_recording_bit_for_bit_and_is_judged(
    real_episodes: list[Path], motion: BodyMotion
) -> None:
    episode = open_episode(real_episodes[0])
    assert motion.source == "simulated again: identical to the recording at every tick"
    assert motion.position.shape == (len(episode), motion.model.nbody, 3)
    speed = motion.margins["joint_velocity"]
    assert np.isfinite(speed).all()
    assert (speed > 0).all()
    assert np.ptp(speed) > 0.01
    assert {"joint_position", "kinetic_energy", "workspace_box", "commanded_acceleration"} <= set(motion.margins)


@pytest.mark.gl
def test_moving_the_slider_moves_the_scene_and_every_panel(viewer: Viewer, motion: BodyMotion) -> None:
    before = {body: np.array(frame.position) for body, frame in viewer.bodies.items()}
    state, pictures = viewer.state.content, {name: handle.image.copy() for name, handle in viewer.pictures.items()}
    viewer.slider.value = 150  # what the page's slider does
    assert viewer.index == 150
    moved = [body for body, frame in viewer.bodies.items() if not np.array_equal(frame.position, before[body])]
    assert len(moved) >= 7  # the links of the arm
    for body, frame in viewer.bodies.items():
        np.testing.assert_allclose(frame.position, motion.position[150, body], atol=1e-6)  # viser keeps float32
        np.testing.assert_allclose(frame.wxyz, motion.quaternion[150, body], atol=1e-6)
    assert viewer.state.content != state
    assert "tick 150" in viewer.state.content
    assert any(not np.array_equal(handle.image, pictures[name]) for name, handle in viewer.pictures.items())
    assert "kinetic energy" in viewer.margins.content
    assert "dx" in viewer.tokens.content


@pytest.mark.gl
def test_playing_advances_and_pausing_stands_still(viewer: Viewer) -> None:
    viewer.play()
    deadline = time.monotonic() + 30
    while viewer.index < 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert viewer.index >= 20
    viewer.pause()
    time.sleep(0.3)
    still = viewer.index
    time.sleep(0.3)
    assert viewer.index == still


@pytest.mark.gl
def test_a_browser_gets_the_page_and_a_websocket_gets_the_scene(viewer: Viewer) -> None:
    from websockets.sync.client import connect

    with urllib.request.urlopen(viewer.url, timeout=10) as page:
        assert page.status == 200
        assert b"<html" in page.read().lower()
    import viser
    import zstandard

    protocol = f"viser-v{viser.__version__}"
    with connect(viewer.url.replace("http", "ws"), subprotocols=[protocol], max_size=None) as socket:  # type: ignore[list-item]
        received = b""
        deadline = time.monotonic() + 20
        while b"/end_effector" not in received and time.monotonic() < deadline:
            message = socket.recv(timeout=20)
            assert isinstance(message, bytes)
            # Two lengths, then msgpack compressed by zstd; see viser's _message_producer.
            size = int.from_bytes(message[8:16], "little")
            received += zstandard.ZstdDecompressor().decompress(message[16 : 16 + size])
    assert b"/end_effector" in received


def test_geometry_has_the_size_of_the_model() -> None:
    import mujoco

    xml = """<mujoco><worldbody>
      <body name="a" pos="1 0 0"><geom name="box" type="box" size=".1 .2 .3" pos="0 0 1"/></body>
      <body name="b"><geom name="ball" type="sphere" size=".5"/><geom name="rod" type="capsule" size=".1 .4"/>
        <geom name="egg" type="ellipsoid" size=".1 .2 .3"/><geom name="can" type="cylinder" size=".1 .2"/>
        <geom name="hidden" type="box" size="1 1 1" group="3"/></body>
    </worldbody></mujoco>"""
    meshes = {mesh.name: mesh for mesh in geom_meshes(mujoco.MjModel.from_xml_string(xml))}  # type: ignore[attr-defined]
    assert set(meshes) == {"box", "ball", "rod", "egg", "can"}
    extents = {name: np.ptp(mesh.vertices, axis=0) for name, mesh in meshes.items()}
    np.testing.assert_allclose(extents["box"], [0.2, 0.4, 0.6])
    np.testing.assert_allclose(meshes["box"].vertices.mean(axis=0), [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(extents["ball"], [1, 1, 1], rtol=0.05)
    np.testing.assert_allclose(extents["rod"], [0.2, 0.2, 1.0], rtol=0.05)
    np.testing.assert_allclose(meshes["rod"].vertices.mean(axis=0), [0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(extents["egg"], [0.2, 0.4, 0.6], rtol=0.05)
    np.testing.assert_allclose(extents["can"], [0.2, 0.2, 0.4], rtol=0.05)


def test_an_episode_without_geometry_is_shown_too(tmp_path: Path) -> None:
    episode = open_episode(write_simple(tmp_path / "simple.zarr", 60, robot="nobody"))
    with Viewer(episode, None, port=0) as viewer:
        viewer.slider.value = 30
        assert "tick 30" in viewer.state.content
        assert "not known" in viewer.margins.content


def test_panels_tell_what_happened_on_the_tick(tmp_path: Path) -> None:
    episode = open_episode(record_plant(tmp_path / "plant.zarr", 400))
    assert "emergency" not in state_panel(episode, 10, 0.05)
    rejected = next(row for row in episode.events if row.kind.value == "rejection")
    assert f"chunk {rejected.chunk_id} refused: token_out_of_vocabulary" in events_panel(episode.events, rejected.tick)
    assert "refused" not in events_panel(episode.events, 0)
    playing = int(np.flatnonzero(episode.ticks.executor_chunk_id >= 0)[0])
    assert f"chunk {int(episode.ticks.executor_chunk_id[playing])}" in tokens_panel(episode, playing)
    assert margins_panel({"a_limit": np.array([-0.1])}, 0).count("#c92a2a") == 1
    assert "<script>" not in margins_panel({"<script>": np.array([0.5])}, 0)


def test_a_window_of_a_plot_is_centred_on_the_moment_and_short(tmp_path: Path) -> None:
    episode = open_episode(record_plant(tmp_path / "plant.zarr", 1600))
    times = times_s(episode)
    for plot in plots(episode):
        seconds, *lines = window(times, plot, 800)
        assert len(lines) == len(plot.traces)
        assert len(seconds) <= 240
        assert seconds[0] == pytest.approx(-WINDOW_S, abs=0.01)
        assert seconds[-1] == pytest.approx(WINDOW_S, abs=0.01)
