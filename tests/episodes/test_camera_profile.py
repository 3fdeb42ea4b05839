"""Pictures that are kept as JPEG: smaller, said in the manifest, checked by digests, refused where bits matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr

from controllers.types import ActionChunk, ActionSpec, Observation
from episodes.errors import EpisodeError
from episodes.exchange.mcap_export import McapExporter
from episodes.journal import JOURNAL_NAME
from episodes.manifest import Outcome
from episodes.profile import CameraProfile, camera_profile
from episodes.reader import open_episode
from episodes.reinference import reinfer
from episodes.verification import verify
from episodes.writer import EpisodeWriter
from tests.episodes.builders import SPEC, change, make_chunk, manifest, simple_observation, simple_tick
from vla.tokenizers import COMPACT_TOKENIZER


def smooth(tick: int) -> np.ndarray:
    """A picture (40, 56, 3) uint8 of the kind that JPEG is made for."""
    rows, columns = np.mgrid[0:40, 0:56]
    return np.stack([rows * 6, columns * 4, np.full_like(rows, tick)], axis=-1).astype(np.uint8)


def observation(tick: int) -> Observation:
    base = simple_observation(tick)
    images = {"wrist": smooth(tick), "front": smooth(255 - tick)}
    return Observation(images, base.state, base.commanded_pose, base.instruction, base.stamp_ns)


def write(path: Path, profile: str, *, realtime: bool = False, close: bool = True) -> Path:
    writer = EpisodeWriter(path, manifest(camera_profile=profile, realtime=realtime)).open()
    for tick in range(0, 100):
        if tick % 10 == 0:
            writer.record_observation(observation(tick))
        inputs, outputs = simple_tick(tick, arrivals=(make_chunk(tick, tick),) if tick % 10 == 0 else ())
        writer.record_tick(inputs, outputs, b"")
    if close:
        writer.close(Outcome(None, "done"))
    return path


@pytest.mark.parametrize("realtime", [False, True])
def test_pictures_come_back_nearly_as_they_were(realtime: bool, tmp_path: Path) -> None:
    episode = open_episode(write(tmp_path / "j.zarr", "jpeg:90", realtime=realtime))
    assert episode.manifest.camera_profile == "jpeg:90"
    assert verify(episode) == ()
    for index in range(10):
        found = episode.observation(index)
        for camera, expected in observation(10 * index).images.items():
            image = found.images[camera]
            assert image.shape == expected.shape
            assert image.dtype == np.uint8
            assert np.abs(image.astype(int) - expected).max() < 24
            np.testing.assert_array_equal(episode.images(camera)[index], image)


def test_a_plain_reader_gets_jpegs(tmp_path: Path) -> None:
    path = write(tmp_path / "j.zarr", "jpeg:90")
    root: Any = zarr.open_group(str(path), mode="r")
    pixels = cv2.imdecode(np.asarray(root["observations/images/wrist"][3]), cv2.IMREAD_COLOR)
    assert pixels is not None
    np.testing.assert_array_equal(pixels[..., ::-1], open_episode(path).image("wrist", 3))
    assert root["observations"].attrs["jpeg_sizes"] == {"wrist": [40, 56], "front": [40, 56]}


def test_a_journal_left_by_a_crash_reads_like_the_finished_store(tmp_path: Path) -> None:
    path = write(tmp_path / "c.zarr", "jpeg:80", close=False)
    assert (path / JOURNAL_NAME).exists()
    left = open_episode(path)
    whole = open_episode(write(tmp_path / "w.zarr", "jpeg:80"))
    assert verify(left) == ()
    for camera in whole.cameras:
        np.testing.assert_array_equal(left.images(camera), whole.images(camera)[: len(left.images(camera))])


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "j.zarr", "jpeg:90")
    root: Any = zarr.open_group(str(path), mode="r")
    place = int(root["observations/jpeg_bytes/wrist"][1]) - 3
    change(path, "observations/images/wrist", (1, place), int(root["observations/images/wrist"][1, place]) ^ 1)
    assert [(item.tick, item.field) for item in verify(open_episode(path))] == [(10, "observations/images/wrist[1]")]
    with pytest.raises(EpisodeError, match="the picture was changed or lost"):
        open_episode(path).image("wrist", 1)


def test_a_frame_that_was_dropped_is_absent(tmp_path: Path) -> None:
    path = write(tmp_path / "j.zarr", "jpeg:90")
    root: Any = zarr.open_group(str(path), mode="r+")
    root["observations/jpeg_bytes/wrist"][2] = 0
    root["observations/present/wrist"][2] = False
    episode = open_episode(path, check=False)
    assert episode.image("wrist", 2) is None
    assert not episode.images("wrist")[2].any()


class Parrot:
    """A policy that says what was recorded."""

    spec: ActionSpec = SPEC
    tokenizer_id = COMPACT_TOKENIZER.tokenizer_id

    def reset(self) -> None:
        pass

    def infer(self, observation: Observation) -> ActionChunk:
        tick = observation.stamp_ns // 5_000_000
        assert observation.images["wrist"].shape == (40, 56, 3)
        return make_chunk(tick, tick).chunk


def test_inference_from_lossy_pictures_says_so_and_is_refused_where_it_must_be_exact(tmp_path: Path) -> None:
    lossless = reinfer(open_episode(write(tmp_path / "l.zarr", "lossless")), Parrot(), exact=True)
    assert (lossless.lossy_pictures, lossless.identical_chunks, lossless.token_agreement) == (False, 10, 1.0)
    episode = open_episode(write(tmp_path / "j.zarr", "jpeg:90"))
    found = reinfer(episode, Parrot())
    assert (found.lossy_pictures, found.chunks) == (True, 10)
    with pytest.raises(EpisodeError) as caught:
        reinfer(episode, Parrot(), exact=True)
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "j.zarr: pictures: expected lossless ones for bit-exact inference, found the camera log jpeg:90; the policy "
        "saw other pixels; record with --camera-log lossless, or compare without --exact"
    )


def test_a_bag_that_could_not_come_back_is_not_made(tmp_path: Path) -> None:
    path = write(tmp_path / "j.zarr", "jpeg:90")
    with pytest.raises(EpisodeError, match="expected lossless pictures, for a bag must come back bit for bit"):
        McapExporter().export([path], tmp_path / "out")


@pytest.mark.parametrize("text", ["", "jpeg", "jpeg:", "jpeg:0", "jpeg:101", "jpeg:9.5", "png", "lossless:3"])
def test_another_profile_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a camera log of lossless or jpeg:QUALITY .* try jpeg:90"):
        camera_profile(text)


def test_a_profile_reads_back() -> None:
    for profile in (CameraProfile(), CameraProfile(1), CameraProfile(100)):
        assert camera_profile(str(profile)) == profile
    with pytest.raises(ValueError, match="expected a JPEG quality from 1 to 100, found 101"):
        CameraProfile(101)
