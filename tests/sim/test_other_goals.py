"""Labels for what else could have been asked for in a recorded scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from sim.other_goals import SUFFIX, label_folder, label_other_goals
from sim.rollout import ExpertSource, Teaching, run_episode
from sim.stack import StackConfig
from sim.teaching import BurstNoise
from vla.training.dataset import PackedDataset
from vla.training.sources import Source
from vla.training.split import split_dataset


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    outcome = run_episode("reach", 5, ExpertSource(), StackConfig(), out_dir=folder, teaching=Teaching(BurstNoise()))
    return folder / outcome.episode


def test_the_same_pictures_get_the_labels_of_other_instructions(episode: Path, tmp_path: Path) -> None:
    assert label_other_goals(episode) == 2
    group = zarr.open_group(str(episode), mode="r")
    own = np.asarray(group["labels/tokens"][...])  # pyright: ignore[reportIndexIssue, reportArgumentType]
    with np.load(episode.with_name(episode.stem + SUFFIX)) as data:
        assert data["tokens"].shape == (2, *own.shape)
        assert len(set(data["instructions"])) == 2
        for labels in data["tokens"]:
            assert (labels[0] != own[0]).any()
    assert label_folder(episode.parent) == 0  # labelled already

    source = Source(episode.parent)
    packed = PackedDataset(tmp_path)
    packed.update([source])
    packed.update([source])
    assert [entry.other for entry in packed.episodes] == [0, 1, 2]
    assert packed.count == 3 * len(own)
    assert len(packed.images) == len(own)
    assert np.array_equal(packed.frames["image"], np.tile(np.arange(len(own)), 3))
    again = PackedDataset(tmp_path)
    assert again.frames.tobytes() == packed.frames.tobytes()
    split = split_dataset(again, [source], {}, 0.0, balance_tasks=True, others_weight=0.25)
    weight = np.diff(split.cumulative, prepend=0.0)
    assert weight[-1] == pytest.approx(0.25 * weight[0])


def test_a_scene_that_allows_one_goal_only_gets_no_labels(tmp_path: Path) -> None:
    config = StackConfig()
    outcome = run_episode("open_drawer", 5, ExpertSource(), config, out_dir=tmp_path, teaching=Teaching(BurstNoise()))
    assert label_other_goals(tmp_path / outcome.episode) == 0
    assert not list(tmp_path.glob("*" + SUFFIX))
