"""LeRobotDatasets as training data: exact where we exported them, as declared where others recorded them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("pyarrow")

from controllers.spatial import quaternion_from_rotation_vector, quaternion_multiply
from tests.vla.lerobot_data import Frames, as_exported, write_dataset
from tests.vla.synthetic import toy_spec, write_episode
from vla.foreign.declaration import parse_declaration
from vla.tokenizers import COMPACT_TOKENIZER
from vla.training.dataset import PackedDataset
from vla.training.resampling import check_rates, chunks_ahead, join_motions, split_motion
from vla.training.sources import EpisodeError, Layout, Source
from vla.training.split import split_dataset

DECLARED = {
    "observation": {
        "images": {"observation.images.top": {"camera": "workspace"}, "observation.images.hand": {"camera": "wrist"}},
        "state": {"observation.state": ["ee_position", "ee_quaternion_wxyz", "gripper_opening"]},
        "prompt": "task",
    },
    "actions": {"key": "action", "scale": [0.01, 0.01, 0.01, 1.0, 1.0, 1.0, 1.0]},
}


def declared(**changes: object):
    return parse_declaration({**DECLARED, **changes})


def spec_entry(**changes: object) -> dict[str, object]:
    return {**toy_spec().to_json(), **changes}


def foreign_frames(count: int, seed: int = 0, task: str = "sort the screws") -> Frames:
    """Centimetres, 60 x 80 pictures."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-0.4, 0.4, (count, 7))
    action[:, 3:6], action[:, 6] = 0.1 * action[:, 3:6], rng.integers(0, 2, count)
    pose = np.tile([0.4, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0, 0.04], (count, 1))
    pose[:, :3] += np.cumsum(0.01 * action[:, :3], axis=0)
    pictures = rng.integers(0, 256, (count, 60, 80, 3), dtype=np.uint8)
    return Frames(
        {"action": action.astype(np.float32), "observation.state": pose.astype(np.float32)},
        {"observation.images.top": pictures, "observation.images.hand": pictures[:, ::-1]},
        task,
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes")
    for seed in range(3):
        write_episode(folder, seed, frames=5)
    return folder


def test_an_exported_data_set_packs_to_the_arrays_of_the_episodes_themselves(recorded: Path, tmp_path: Path) -> None:
    exported = as_exported(sorted(recorded.glob("*.zarr")), tmp_path / "data")
    direct, through = PackedDataset(tmp_path / "a"), PackedDataset(tmp_path / "b")
    direct.update([Source(recorded)])
    assert through.update([Source(exported)]).added == 3
    assert np.array_equal(through.images, direct.images)
    assert through.frames.tobytes() == direct.frames.tobytes()
    assert through.spec == direct.spec
    for ours, theirs in zip(direct.episodes, through.episodes, strict=True):
        same = ("start", "count", "instruction", "task", "seed", "success", "skipped")
        assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
    splits = [split_dataset(d, [Source(s)], {}, 0.3, True) for d, s in ((direct, recorded), (through, exported))]
    assert np.array_equal(splits[0].train, splits[1].train)
    assert np.array_equal(splits[0].cumulative, splits[1].cumulative)
    assert PackedDataset(tmp_path / "b").update([Source(exported)]).known == 3


@pytest.mark.slow
@pytest.mark.gl
def test_what_vla_export_writes_of_collected_episodes_packs_to_the_same_arrays(tmp_path: Path) -> None:
    pytest.importorskip("lerobot")
    from episodes.exchange.lerobot_export import LerobotExporter
    from sim.assembly import default_config
    from sim.collection import collect
    from sim.evaluation import EvalOptions, Recording
    from sim.policies import PolicyChoice
    from sim.rollout import Teaching
    from sim.teaching import BurstNoise

    options = EvalOptions(
        policy=PolicyChoice("expert"),
        config=default_config(),
        tasks=("reach",),
        episodes=2,
        first_seed=0,
        workers=0,
        out_dir=tmp_path / "collected",
        recording=Recording.ALL,
        teaching=Teaching(BurstNoise(), None),
    )
    folder = collect(options, show_progress=False).folder
    LerobotExporter().export(sorted(folder.glob("*.zarr")), tmp_path / "data")
    direct, through = PackedDataset(tmp_path / "a"), PackedDataset(tmp_path / "b")
    direct.update([Source(folder)])
    through.update([Source(tmp_path / "data")])
    assert direct.count > 20
    assert np.array_equal(through.images, direct.images)
    assert through.frames.tobytes() == direct.frames.tobytes()


def test_a_data_set_exported_anew_to_the_same_folder_is_read_anew(recorded: Path, tmp_path: Path) -> None:
    stores = sorted(recorded.glob("*.zarr"))
    exported = as_exported(stores[:1], tmp_path / "data")
    data = PackedDataset(tmp_path / "cache")
    data.update([Source(exported)])
    exported.rename(tmp_path / "old")
    as_exported(stores[1:], exported)
    assert data.update([Source(exported)]).added == 2
    split = split_dataset(data, [Source(exported)], {}, 0.0, False)
    assert split.episodes == 2
    assert split.train.min() == data.episodes[1].start


def test_a_declared_data_set_joins_the_episodes_under_their_spec(recorded: Path, tmp_path: Path) -> None:
    frames = foreign_frames(12)
    root = write_dataset(tmp_path / "screws", [frames], 20)
    sources = [Source(root, declaration=declared()), Source(recorded)]
    data = PackedDataset(tmp_path / "cache")
    assert data.update(sources).added == 4
    entry = data.episodes[-1]
    assert (entry.task, entry.instruction, entry.success) == ("screws", "sort the screws", True)
    rows = data.frames[entry.start : entry.start + entry.count]
    decoded = COMPACT_TOKENIZER.decode(rows["tokens"].astype(np.int64), toy_spec())
    scale = np.array([0.01] * 3 + [1.0] * 4)
    expected = frames.columns["action"] * scale
    bin_size = np.array([0.02] * 3 + [0.2] * 3 + [2.0]) / 255
    for row in range(8):
        given = np.arange(12 - row)
        assert (np.abs(decoded[given, row] - expected[given + row]) <= 0.51 * bin_size).all()
    # Behind the end the arm stays where it is, the gripper as it was.
    assert np.abs(decoded[-1, 1:, :6]).max() < 1e-9
    assert np.ptp(decoded[-1, :, 6]) == 0.0
    assert rows["state"][:, :3] == pytest.approx(frames.columns["observation.state"][:, :3])


def test_a_share_holds_whatever_the_number_of_frames(recorded: Path, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "screws", [foreign_frames(40)], 20)
    sources = [Source(recorded), Source(root, share=0.25, declaration=declared())]
    data = PackedDataset(tmp_path / "cache")
    data.update(sources)
    for balance in (True, False):
        split = split_dataset(data, sources, {}, 0.0, balance)
        drawn = np.diff(split.cumulative, prepend=0.0)
        foreign = np.array([data.episodes[i].task == "screws" for i in data.frames["episode"][split.train]])
        assert drawn[foreign].sum() == pytest.approx(0.25)
    with pytest.raises(ValueError, match="expected shares below 100% in all, so that the others have some, found 100%"):
        split_dataset(data, [sources[0], Source(root, share=1.0, declaration=declared())], {}, 0.0, True)
    with pytest.raises(ValueError, match="expected shares of 100% in all, found 25%"):
        split_dataset(data, sources[1:], {}, 0.0, True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": {"key": "acton"}}, "expected a column 'acton', found"),
        (
            {"actions": {"key": "action"}},
            r"frame \d+, d\w+: expected an action in \[-0.01, 0.01\] m, found .*; correct actions.scale",
        ),
        ({"actions": {"key": "observation.state"}}, "expected 7 values a frame .dx, dy, .*found shape .8,"),
        (
            {"observation": {**DECLARED["observation"], "state": {}}},
            "expected the end effector's pose and the gripper's opening, found a mapping without one of them",
        ),
        (
            {"observation": {"images": {"observation.images.top": {"camera": "workspace"}}, "state": {}}},
            "found none of 'wrist' in the mapping; declare which key holds them",
        ),
        (
            {"observation": {**DECLARED["observation"], "images": {
                "observation.images.topp": {"camera": "workspace"}, "observation.images.hand": {"camera": "wrist"}}}},
            "expected pictures under 'observation.images.topp', found pictures under observation.images.top, ",
        ),
        (
            {"stack": {"action_spec": spec_entry(rate_hz=15)}},
            "one of the rates to be a multiple of the other, found 20 frames a second and an action spec of 15",
        ),
        (
            {"stack": {"action_spec": spec_entry(rate_hz=10, space="ee_pose")}},
            "only motions of the end effector .7 values. are converted, not ee_pose",
        ),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_the_data_is_refused(
    changes: dict, words: str, recorded: Path, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "screws", [foreign_frames(6)], 20)
    sources = [Source(root, declaration=declared(**changes))]
    if "stack" not in changes:
        sources.append(Source(recorded))
    with pytest.raises(EpisodeError, match=words):
        PackedDataset(tmp_path / "cache").update(sources)


def test_what_nobody_declared_is_refused_and_the_columns_are_listed(recorded: Path, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "screws", [foreign_frames(6)], 20)
    with pytest.raises(EpisodeError, match=r"expected meta/vla_stack.jsonl.*found neither, and the columns action, "):
        PackedDataset(tmp_path / "a").update([Source(root)])
    with pytest.raises(EpisodeError, match=r"expected an action spec, found none; declare stack.action_spec"):
        PackedDataset(tmp_path / "b").update([Source(root, declaration=declared())])
    with pytest.raises(EpisodeError, match="expected a LeRobotDataset for a declared mapping, found no meta"):
        PackedDataset(tmp_path / "c").update([Source(recorded, declaration=declared())])
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(EpisodeError, match=r"expected codebase_version v3.0, found v2.1; convert it"):
        PackedDataset(tmp_path / "d").update([Source(root, declaration=declared())])


def test_one_camera_without_state_is_a_layout_of_its_own(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "screws", [foreign_frames(6)], 20)
    bare = {"images": {"observation.images.top": {"camera": "workspace"}}, "state": {}}
    source = Source(root, declaration=declared(observation=bare, stack={"action_spec": spec_entry()}))
    data = PackedDataset(tmp_path / "cache", Layout(cameras=("workspace",), image_size=56, state=False))
    data.update([source])
    assert data.images.shape == (6, 1, 56, 56, 3)
    with pytest.raises(ValueError, match=r"another layout: expected .* of the cameras wrist, found .* of workspace"):
        PackedDataset(tmp_path / "cache", Layout(cameras=("wrist",), image_size=56, state=False))


# -- rates

MOTIONS = hnp.arrays(np.float64, (6, 7), elements=st.floats(-0.2, 0.2))


def turned(motions: np.ndarray) -> np.ndarray:
    orientation = np.array([1.0, 0.0, 0.0, 0.0])
    for motion in motions:
        orientation = quaternion_multiply(quaternion_from_rotation_vector(motion[3:6]), orientation)
    return np.asarray(orientation)


@given(motions=MOTIONS, parts=st.integers(1, 4))
def test_motions_that_are_cut_and_joined_again_are_the_same(motions: np.ndarray, parts: int) -> None:
    cut = split_motion(motions, parts)
    assert cut.shape == (6 * parts, 7)
    assert turned(cut) == pytest.approx(turned(motions), abs=1e-9)
    assert join_motions(cut.reshape(6, parts, 7), parts) == pytest.approx(motions, abs=1e-9)


@given(motions=MOTIONS)
def test_joined_motions_lead_where_the_single_ones_did(motions: np.ndarray) -> None:
    joined = join_motions(motions.reshape(2, 3, 7), 3)
    assert joined[:, :3].sum(0) == pytest.approx(motions[:, :3].sum(0), abs=1e-9)
    assert turned(joined) == pytest.approx(turned(motions), abs=1e-9)
    assert joined[:, 6] == pytest.approx(motions[2::3, 6])


@given(motions=MOTIONS, fps=st.sampled_from([10, 20, 40, 60]))
def test_a_chunk_starts_with_its_own_frames_motion_and_ends_where_the_recording_does(
    motions: np.ndarray, fps: int
) -> None:
    chunks = chunks_ahead(motions, fps, toy_spec())
    assert chunks.shape == (6, 8, 7)
    split, joined = max(1, 20 // fps), max(1, fps // 20)
    rows = min(8, 6 * split // joined)
    covered = motions[: rows * joined // split]
    assert chunks[0, :rows, :3].sum(0) == pytest.approx(covered[:, :3].sum(0), abs=1e-9)
    assert turned(chunks[0, :rows]) == pytest.approx(turned(covered), abs=1e-9)
    assert np.abs(chunks[-1, max(split, 1) :, :6]).max() < 1e-12
    assert (chunks[-1, :, 6] == motions[-1, 6]).all()


def test_rates_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="found 30 frames a second and an action spec of 20 Hz"):
        check_rates(30, toy_spec())
