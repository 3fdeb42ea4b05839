"""Other people's policies drive episodes through the whole stack, in processes of their own; each episode replays."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lerobot")

from controllers.drivers import InterruptSwitch
from controllers.protocols import PolicyClient
from controllers.types import ChunkArrival, Observation
from episodes.episode import Episode
from episodes.reader import open_episode
from episodes.replay import replay
from episodes.results import EpisodeResult
from sim.assembly import SimCell, default_config, rebuild_for_replay
from sim.foreign import ForeignAccess, ForeignSource, LeRobotChoice, choose_foreign, weights_hash
from sim.openvla import OpenVLAChoice
from sim.openvla_oft import OFTChoice
from sim.policies import PolicyChoice
from sim.rollout import run_episode
from sim.stack import StackConfig
from tests.vla.foreign import tiny_lerobot, tiny_pi0_fast, tiny_text
from tests.vla.openvla import tiny_oft
from tests.vla.openvla.tiny import KEY, make_tensors, write_checkpoint
from vla.preflight.findings import PreflightError
from vla.process import PolicyFactory, PolicyProcess, ProcessMode

REQUESTS = 6  # then the episode is ended


class _Counted:
    """A client that ends the episode after a few requests."""

    def __init__(self, inner: PolicyClient, switch: InterruptSwitch) -> None:
        self._inner, self._switch, self._left = inner, switch, REQUESTS

    def request(self, observation: Observation) -> None:
        self._left -= 1
        if self._left == 0:
            self._switch.press()
        self._inner.request(observation)

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        return self._inner.poll(now_ns)


class ShortSource(ForeignSource):
    """A foreign policy's chunks, and an end after a few of them."""

    switch: InterruptSwitch

    def client(self, cell: SimCell, config: StackConfig) -> PolicyClient:
        return _Counted(super().client(cell, config), self.switch)


@dataclass(frozen=True)
class SmallPi0Fast(LeRobotChoice):
    """A pi0-FAST policy whose network is made small in its process, too."""

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        factory = super().factory(config, device, dtype)
        return replace(factory, target="tests.vla.foreign.tiny_pi0_fast:build")


def process(factory: PolicyFactory) -> PolicyProcess:
    return PolicyProcess(factory, ProcessMode.LOCK_STEP, timeout_s=60.0, start_timeout_s=200.0)


def run(name: str, access: ForeignAccess, out: Path, kind: Callable = LeRobotChoice) -> tuple[EpisodeResult, Episode]:
    policy = choose_foreign(name, access)
    if isinstance(policy, LeRobotChoice):
        policy = kind(policy.folder, policy.declaration)
    config = policy.configure(default_config())
    source = ShortSource(name, policy, process, "cpu", "fp32")
    source.switch = InterruptSwitch(settle_ticks=5)
    try:
        outcome = run_episode("reach", 7, source, config, out_dir=out / "run", interrupt=source.switch)
        account = source.account
    finally:
        source.close()
    if account is not None:
        assert account.chunks + account.refused == REQUESTS
    return outcome, open_episode(out / "run" / outcome.episode)


def save(kind: str, out: Path) -> Path:
    statistics = tiny_lerobot.Features().statistics()
    match kind:
        case "act":
            return tiny_lerobot.save(tiny_lerobot.act(), out / kind, statistics)
        case "diffusion":
            return tiny_lerobot.save(tiny_lerobot.diffusion(), out / kind, statistics)
        case "smolvla":
            vlm = tiny_text.save_model(out / "vlm", weights=False)
            return tiny_lerobot.save(tiny_lerobot.smolvla(vlm), out / kind, statistics)
        case _:
            return tiny_pi0_fast.save(out / kind)


@pytest.mark.slow
@pytest.mark.gl
@pytest.mark.parametrize("kind", ["act", "diffusion", "smolvla", "pi0_fast"])
def test_a_lerobot_policy_drives_an_episode_that_replays(kind: str, tmp_path: Path) -> None:
    folder = save(kind, tmp_path)
    access = ForeignAccess(policy_mapping=tiny_lerobot.write_mapping(tmp_path))
    choice = SmallPi0Fast if kind == "pi0_fast" else LeRobotChoice
    outcome, episode = run(f"lerobot:{folder}", access, tmp_path, choice)
    assert outcome.chunks == REQUESTS - 1  # the last one meets an arm that was told to hold
    assert outcome.policy == f"lerobot:{folder}"
    assert len(episode.manifest.policy.weights_sha256) == 64
    moved = np.ptp(episode.ticks.state_ee_pose[:, :3], axis=0)
    assert moved.max() > 1e-4
    assert replay(episode, rebuild_for_replay).identical


TEXT_MAPPING = """
observation:
  images:
    front: {camera: workspace, size: 32}
  state: {}
stack:
  tokenizer: uniform-256/rt2
text:
  prompt: "What action should the robot take to {instruction}?"
  rows_apart: "\\n"
"""


@pytest.mark.slow
@pytest.mark.gl
def test_a_text_policy_drives_an_episode_that_replays(tmp_path: Path) -> None:
    folder = tiny_text.save_model(tmp_path / "rt2", ("12", " 1", "128"))
    access = ForeignAccess(policy_mapping=tiny_lerobot.write_mapping(tmp_path, TEXT_MAPPING))
    outcome, episode = run(f"rt2:{folder}", access, tmp_path)
    assert outcome.chunks == REQUESTS - 1
    assert episode.manifest.tokenizer_id == "uniform-256/rt2"
    assert np.ptp(episode.ticks.state_ee_pose[:, :3], axis=0).max() > 1e-4
    assert replay(episode, rebuild_for_replay).identical


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("uniform-256/rt2", "uniform-255/openvla-32000"),
            "tokens are the integers that the model writes, found",
        ),
        (("state: {}", "state: {state: [ee_position]}"), "expected neither state nor actions for a model that reads"),
        (("camera: workspace", "camera: work"), "unknown camera 'work'; did you mean 'workspace'"),
    ],
)
def test_a_text_policy_that_does_not_fit_is_refused(change: tuple[str, str], words: str, tmp_path: Path) -> None:
    folder = tiny_text.save_model(tmp_path / "rt2")
    access = ForeignAccess(policy_mapping=tiny_lerobot.write_mapping(tmp_path, TEXT_MAPPING.replace(*change)))
    choice = PolicyChoice(f"rt2:{folder}", foreign=access)
    with pytest.raises(ValueError, match=words):
        choice.check_foreign(choice.configure(default_config()))


class SmallOpenVLA(OpenVLAChoice):
    """A checkpoint that is tiny, and built as such in its process."""

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        return replace(super().factory(config, device, dtype), target="tests.vla.openvla.tiny_process:build")


@pytest.mark.slow
@pytest.mark.gl
def test_an_openvla_checkpoint_drives_an_episode_that_replays(tmp_path: Path) -> None:
    (tmp_path / "openvla").mkdir()
    folder = write_checkpoint(tmp_path / "openvla", make_tensors())
    name, access = f"openvla:{folder}", ForeignAccess(unnorm_key=KEY, policy_rate_hz=5)
    policy = choose_foreign(name, access)
    config = policy.configure(default_config())
    assert (config.action_spec.rate_hz, config.action_spec.horizon) == (5, 1)
    assert config.tokenizer_id == "uniform-255/openvla-32000"
    policy.check(config)
    source = ShortSource(name, SmallOpenVLA.read(folder, KEY, "workspace", 5), process, "cpu", "fp32")
    source.switch = InterruptSwitch(settle_ticks=5)
    try:
        outcome = run_episode("reach", 7, source, config, out_dir=tmp_path / "run", interrupt=source.switch)
    finally:
        source.close()
    # A random model also writes grippers beyond open and closed, which the boundary refuses.
    assert outcome.chunks > 0
    assert set(outcome.rejections) <= {"out_of_bounds", "stale"}
    episode = open_episode(tmp_path / "run" / outcome.episode)
    assert replay(episode, rebuild_for_replay).identical


def test_an_openvla_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, make_tensors())
    with pytest.raises(ValueError, match=r"unnorm_key\), found 'bridge_org'; did you mean 'bridge_orig'\?"):
        PolicyChoice(f"openvla:{folder}", foreign=ForeignAccess(unnorm_key="bridge_org"))
    choice = PolicyChoice(f"openvla:{folder}", foreign=ForeignAccess(unnorm_key=KEY, policy_camera="workspce"))
    with pytest.raises(ValueError, match=r"--policy-camera: unknown camera 'workspce'; did you mean 'workspace'"):
        choice.check_foreign(choice.configure(default_config()))
    choice = PolicyChoice(f"openvla:{folder}", foreign=ForeignAccess(unnorm_key=KEY))
    with pytest.raises(PreflightError, match=r"units|bounds|chunk_length"):
        choice.check_foreign(default_config())


class SmallOFT(OFTChoice):
    """The same for OpenVLA-OFT."""

    def factory(self, config: StackConfig, device: str, dtype: str) -> PolicyFactory:
        return replace(super().factory(config, device, dtype), target="tests.vla.openvla.tiny_process:build_oft")


LIBERO_PARTS = ("ee_position", "ee_axis_angle", "gripper_fingers")


def save_oft(folder: Path, head: str) -> tuple[Path, ForeignAccess]:
    """A checkpoint with state, FiLM and two cameras, or one of tokens alone, and how it is declared."""
    tensors = make_tensors()
    write_checkpoint(folder, tensors)
    if head == "tokens":
        files = tiny_oft.Files()
        access = ForeignAccess(unnorm_key=KEY, policy_rate_hz=5, oft_head="tokens")
    else:
        files = tiny_oft.Files(tiny_oft.make_head(), tiny_oft.make_projector(), tiny_oft.make_vision(tensors))
        access = ForeignAccess(
            unnorm_key=KEY, policy_rate_hz=5, oft_wrist_cameras=("wrist",), oft_state=LIBERO_PARTS, oft_film=True
        )
    return tiny_oft.write_files(folder, files), access


@pytest.mark.slow
@pytest.mark.gl
@pytest.mark.parametrize("head", ["l1", "tokens"])
def test_an_openvla_oft_checkpoint_drives_an_episode_that_replays(head: str, tmp_path: Path) -> None:
    folder, access = save_oft(tmp_path / "oft", head)
    name = f"openvla-oft:{folder}"
    policy = choose_foreign(name, access)
    assert isinstance(policy, OFTChoice)
    config = policy.configure(default_config())
    assert (config.action_spec.rate_hz, config.action_spec.horizon) == (5, 8)
    assert config.tokenizer_id == ("uniform-1023/rt2" if head == "l1" else "uniform-255/openvla-32000")
    small = SmallOFT(policy.folder, policy.config, policy.declaration)
    source = ShortSource(name, small, process, "cpu", "fp32")
    source.switch = InterruptSwitch(settle_ticks=5)
    try:
        outcome = run_episode("reach", 7, source, config, out_dir=tmp_path / "run", interrupt=source.switch)
        account = source.account
    finally:
        source.close()
    episode = open_episode(tmp_path / "run" / outcome.episode)
    if head == "l1":
        assert account is not None
        assert account.chunks + account.refused == REQUESTS
        assert outcome.chunks == REQUESTS - 1
        assert np.ptp(episode.ticks.state_ee_pose[:, :3], axis=0).max() > 1e-4
    else:  # a random model also writes grippers beyond open and closed, which the executor refuses
        assert account is None
        assert set(outcome.rejections) <= {"out_of_bounds", "stale"}
    assert replay(episode, rebuild_for_replay).identical


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"oft_head": "tokens"}, "expected no action_head, found action_head--150000_checkpoint.pt; declare head l1"),
        ({"oft_state": ()}, "declare the parts of its state (--oft-state; LIBERO's are ee_position ee_axis_angle"),
        ({"oft_state": LIBERO_PARTS[:2]}, "expected 8 values of the state, as the data set's statistics have, found 6"),
        ({"oft_state": ("ee_positon",)}, "unknown part of the state 'ee_positon'; did you mean 'ee_position'"),
        ({"oft_film": False}, "expected no vision_backbone, found vision_backbone--150000_checkpoint.pt; declare FiLM"),
        ({"oft_wrist_cameras": ("wirst",)}, "--oft-wrist-cameras: unknown camera 'wirst'; did you mean 'wrist'"),
        ({"policy_camera": "workspce"}, "--policy-camera: unknown camera 'workspce'; did you mean 'workspace'"),
        ({"unnorm_key": "bridge_org"}, "found 'bridge_org'; did you mean 'bridge_orig'?"),
    ],
)
def test_an_openvla_oft_checkpoint_that_was_trained_otherwise_is_refused(
    change: dict, words: str, tmp_path: Path
) -> None:
    folder, access = save_oft(tmp_path, "l1")
    with pytest.raises(ValueError, match=re.escape(words)):
        _refused(f"openvla-oft:{folder}", replace(access, **change))


def test_oft_files_are_not_taken_for_openvlas_and_their_contract_is_compared(tmp_path: Path) -> None:
    folder, access = save_oft(tmp_path, "l1")
    with pytest.raises(ValueError, match=r"found files of OpenVLA-OFT; choose openvla-oft:"):
        PolicyChoice(f"openvla:{folder}", foreign=access)
    with pytest.raises(PreflightError, match=r"units|bounds|tokenizer"):
        PolicyChoice(f"openvla-oft:{folder}", foreign=access).check_foreign(default_config())
    before = weights_hash(folder)
    (folder / "action_head--150000_checkpoint.pt").write_bytes(b"another")
    assert weights_hash(folder) != before


def _refused(name: str, access: ForeignAccess) -> None:
    choice = PolicyChoice(name, foreign=access)
    choice.check_foreign(choice.configure(default_config()))


@pytest.mark.slow
@pytest.mark.gl
def test_actions_out_of_range_rest_the_arm_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    statistics = tiny_lerobot.Features().statistics()
    statistics["action"]["mean"][2] = 0.2  # 20 cm a row
    folder = tiny_lerobot.save(tiny_lerobot.act(), tmp_path / "act", statistics)
    mapping = tiny_lerobot.MAPPING.replace("saturate", "refuse")
    access = ForeignAccess(policy_mapping=tiny_lerobot.write_mapping(tmp_path, mapping))
    outcome, episode = run(f"lerobot:{folder}", access, tmp_path)
    assert outcome.chunks == 0
    assert outcome.rejections["unknown_tokenizer"] == REQUESTS - 1
    _, record = episode.chunk_records[0]
    assert str(record.header["tokenizer_id"]).startswith(
        "none: row 0, dz: expected a value in [-0.025, 0.025] m, found"
    )
    assert (np.ptp(episode.ticks.state_ee_pose[:, :3], axis=0) < 1e-3).all()
    assert replay(episode, rebuild_for_replay).identical
    assert f"{REQUESTS} refused; outside the range, of {8 * REQUESTS} values each: dz" in caplog.text


def test_what_is_chosen_is_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the folder of a LeRobot policy, found none at nowhere"):
        PolicyChoice("lerobot:nowhere", foreign=ForeignAccess(policy_mapping="tabletop_lerobot"))
    with pytest.raises(ValueError, match=r"unknown policy 'lerobt:x': expected one of .*lerobot:PATH"):
        PolicyChoice("lerobt:x")
    folder = save("act", tmp_path)
    with pytest.raises(ValueError, match="expected a mapping from the robot's cameras and state"):
        PolicyChoice(f"lerobot:{folder}")
    choice = PolicyChoice(f"lerobot:{folder}", foreign=ForeignAccess(policy_mapping="tabletop_lerobot"))
    config = choice.configure(default_config())
    assert (config.action_spec.rate_hz, config.executor.execution_horizon) == (10, 1)
    with pytest.raises(ValueError, match=r"expected a picture 3 x 64 x 64 .*, found 3 x 128 x 128 of the camera"):
        choice.check_foreign(config)
