"""LeRobotDataset v3: LeRobot itself loads it and trains on it, and what it carries comes back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from episodes.errors import EpisodeError
from episodes.exchange.equality import observation_differences
from episodes.exchange.lerobot_export import LerobotExporter, LerobotOptions
from episodes.exchange.lerobot_import import LerobotImporter, LerobotImportOptions
from episodes.provenance import provenance
from episodes.reader import open_episode
from episodes.replay import Refusal, replay
from episodes.report.page import write_report
from episodes.verification import verify
from sim.assembly import rebuild_for_replay
from tests.episodes.builders import write_simple

pytest.importorskip("pyarrow")
pytest.importorskip("lerobot")
pytestmark = [pytest.mark.slow, pytest.mark.gl]


@pytest.fixture(scope="module")
def dataset(real_episodes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lerobot") / "data"
    done = LerobotExporter().export(real_episodes, out)
    assert done.episodes == 3
    return out


@pytest.fixture(scope="module")
def loaded(dataset: Path) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/vla-stack", root=dataset)


def test_lerobot_loads_every_frame_with_true_stamps_words_and_success(
    dataset: Path, loaded: Any, real_episodes: list[Path]
) -> None:
    episodes = [open_episode(path) for path in real_episodes]
    assert loaded.num_episodes == 3
    assert loaded.num_frames == sum(len(episode.observations.stamp_ns) for episode in episodes)
    frame = loaded[0]
    first = episodes[0]
    assert frame["task"] == first.manifest.instruction
    assert int(frame["vla.stamp_ns"]) == int(first.observations.stamp_ns[0])
    # The file keeps every bit (see the way back); LeRobot's loader makes float32 of any float.
    exact = first.observations.joint_position[0]
    np.testing.assert_array_equal(frame["vla.joint_position"].numpy(), exact.astype(np.float32))
    np.testing.assert_array_equal(frame["vla.tokens"].numpy(), first.chunks.tokens[0])
    pixels = np.round(frame["observation.images.wrist"].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
    np.testing.assert_array_equal(pixels, first.images("wrist")[0])
    last = loaded[len(first.observations.stamp_ns) - 1]
    assert bool(last["next.done"])
    assert bool(last["next.success"]) is (first.manifest.outcome is not None and first.manifest.outcome.success)
    statistics = json.loads((dataset / "meta" / "stats.json").read_text())
    assert {"mean", "std", "min", "max", "q01", "q99"} <= set(statistics["action"])


def test_the_action_of_a_frame_is_how_far_the_reference_moved_until_the_next(
    loaded: Any, real_episodes: list[Path]
) -> None:
    episode = open_episode(real_episodes[0])
    stamps = episode.observations.stamp_ns
    reference = episode.observations.commanded_pose
    for index in range(len(stamps) - 1):
        moved = loaded[index]["action"].numpy()[:3]
        # The observation's own reference is that of the tick before it: one tick is between them.
        np.testing.assert_allclose(moved, reference[index + 1, :3] - reference[index, :3], atol=3e-3)
    total = sum(loaded[index]["action"].numpy()[:3] for index in range(len(stamps)))
    np.testing.assert_allclose(total, episode.ticks.commanded_pose[-1, :3] - reference[0, :3], atol=1e-6)


def test_act_trains_on_it(dataset: Path) -> None:
    from benchmarks.lerobot_training import train_act

    training = train_act(dataset, steps=20)
    assert training.episodes == 3
    assert training.last_loss < training.first_loss


def test_what_lerobot_carries_comes_back_bit_for_bit(dataset: Path, real_episodes: list[Path], tmp_path: Path) -> None:
    done = LerobotImporter().read(dataset, tmp_path)
    assert not done.exact
    assert [path.name for path in done.episodes] == [path.name for path in real_episodes]
    for before, after in zip(real_episodes, done.episodes, strict=True):
        first, second = open_episode(before), open_episode(after)
        assert list(observation_differences(first, second)) == []
        assert verify(second) == ()
        assert second.manifest.outcome is not None
        assert second.manifest.outcome.success == (first.manifest.outcome and first.manifest.outcome.success)
        assert len(second) == len(first.observations.stamp_ns)


def test_the_comparison_of_round_trips_finds_one_changed_pixel_and_one_changed_bit(
    dataset: Path, real_episodes: list[Path], tmp_path: Path
) -> None:
    first, second = (open_episode(path) for path in real_episodes[:2])
    assert "observations/joint_position" in set(observation_differences(first, second))
    video = LerobotExporter(LerobotOptions(video=True)).export(real_episodes[:1], tmp_path / "video")
    assert any(loss.kind.value == "compressed" for loss in video.losses)
    back = LerobotImporter().read(tmp_path / "video", tmp_path / "back")
    lossy = list(observation_differences(first, open_episode(back.episodes[0])))
    assert lossy == ["observations/images/workspace", "observations/images/wrist"]
    assert any("lossy video" in text for text in back.lacks)
    error = first.images("wrist").astype(int) - open_episode(back.episodes[0]).images("wrist").astype(int)
    assert 0 < np.abs(error).mean() < 8  # close, and in step


def test_an_imported_data_set_reports_and_is_refused_by_replay_with_reasons(dataset: Path, tmp_path: Path) -> None:
    path = LerobotImporter(LerobotImportOptions(episodes=(1,))).read(dataset, tmp_path).episodes[0]
    episode = open_episode(path)
    write_report(tmp_path, [], tmp_path / "report.html", selected=[path.name])
    assert (tmp_path / "report.html").stat().st_size > 10_000
    found = replay(episode, rebuild_for_replay)
    assert found.refusal is Refusal.IMPORTED
    assert found.first_divergence is not None
    assert "imported from lerobot (data), which lacks the ticks between observations" in found.first_divergence.replayed
    origin = provenance(episode.manifest)
    assert origin is not None
    assert origin.joint_names[0] == "panda_joint1"


def test_a_data_set_of_other_origin_is_imported_from_its_state_and_action(tmp_path: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = ["shoulder", "elbow", "gripper"]
    features: Any = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": names},
        "action": {"dtype": "float32", "shape": (3,), "names": names},
        "observation.images.top": {"dtype": "image", "shape": (8, 12, 3), "names": ["height", "width", "channels"]},
    }
    made = LeRobotDataset.create("local/other", 10, features, root=tmp_path / "other", use_videos=False)
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(2, 7, 3)).astype(np.float32)
    pictures = rng.integers(0, 255, (7, 8, 12, 3), np.uint8)
    for index in range(7):
        made.add_frame(
            {
                "observation.state": state[index],
                "action": action[index],
                "observation.images.top": pictures[index],
                "task": "fold it",
            }
        )
    made.save_episode()
    made.finalize()
    importer = LerobotImporter(LerobotImportOptions(unit="deg"))
    assert importer.reads(tmp_path / "other")
    done = importer.read(tmp_path / "other", tmp_path / "back")
    episode = open_episode(done.episodes[0])
    np.testing.assert_array_equal(episode.ticks.state_joint_position, state[:, :2].astype(np.float64) * (np.pi / 180))
    np.testing.assert_array_equal(episode.ticks.applied_values, action[:, :2].astype(np.float64) * (np.pi / 180))
    np.testing.assert_array_equal(episode.ticks.state_gripper_opening, state[:, 2].astype(np.float64))
    np.testing.assert_array_equal(episode.images("top"), pictures)
    assert episode.manifest.instruction == "fold it"
    assert episode.manifest.control_rate_hz == 10
    assert np.isnan(episode.ticks.state_wrench).all()
    assert any("true time stamps" in text for text in done.lacks)
    # And out again, with much that is not known: LeRobot's statistics bear NaN.
    with pytest.raises(EpisodeError, match=r"commanded_pose: .* use --lerobot\.action joint_position"):
        LerobotExporter().export(done.episodes, tmp_path / "again")
    again = LerobotExporter(LerobotOptions(action="joint_position")).export(done.episodes, tmp_path / "again")
    reloaded = cast(Any, LeRobotDataset("local/again", root=again.out))
    np.testing.assert_array_equal(
        reloaded[3]["observation.state"][:2], episode.ticks.state_joint_position[3].astype("f4")
    )


def test_episodes_that_do_not_fit_together_are_refused(real_episodes: list[Path], tmp_path: Path) -> None:
    other = write_simple(tmp_path / "other.zarr", 60)
    with pytest.raises(EpisodeError, match=r"observation\.state: expected .* as in the first episode"):
        LerobotExporter().export([real_episodes[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
