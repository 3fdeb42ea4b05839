"""A recording survives kill -9, Ctrl-C, a dead recorder and an overloaded disk; and it never blocks the loop."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from episodes.episode import Episode
from episodes.errors import EpisodeError
from episodes.journal import JOURNAL_NAME
from episodes.manifest import Outcome
from episodes.reader import open_episode
from episodes.recording import FRAME_BACKLOG_BYTES, ProcessBackend
from episodes.verification import verify
from episodes.writer import EpisodeWriter
from tests.episodes.builders import bits, manifest, simple_observation, simple_tick

ROOT = Path(__file__).parent.parent.parent
LOSS_TICKS = 20  # 100 ms at 200 Hz


class Recording:
    """A process that records, and what it said it has recorded."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.episodes.recording_process", str(path), mode],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def wait_for_tick(self, tick: int) -> None:
        assert self.process.stdout is not None
        for _ in range(tick + 1):
            assert len(self.process.stdout.read(8)) == 8, self.process.stderr and self.process.stderr.read().decode()

    def last_reported(self) -> int:
        """Ticks that were recorded before the end; call it when the process is dead."""
        assert self.process.stdout is not None
        rest = self.process.stdout.read()
        return int.from_bytes(rest[-8:], "little") if rest else -1

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(30)


def settled(path: Path, timeout_s: float = 30.0) -> Episode:
    """The episode once nobody writes it any more."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        episode = open_episode(path)
        if not episode.live:
            return episode
        time.sleep(0.02)
    raise AssertionError("the recorder did not end")


def assert_intact(episode: Episode, reported: int) -> None:
    """The store opens, has lost no more than promised, and every tick in it is whole."""
    assert len(episode) >= reported + 1 - LOSS_TICKS
    np.testing.assert_array_equal(episode.ticks.tick, np.arange(len(episode)))
    assert verify(episode) == ()
    for index in range(0, len(episode), 37):
        expected, outputs = simple_tick(index % 100)
        assert bits(episode.decoder.state(index)) == bits(expected.state)
        assert bits(episode.decoder.outputs(index)) == bits(outputs)
    ticks = [tick for tick, _ in episode.chunk_records]
    assert ticks == list(range(0, len(episode), 20))[: len(ticks)]
    assert len(ticks) >= len(episode) // 20
    limited = [tick for tick in range(len(episode)) if tick % 50 == 49]
    assert [event.tick for event in episode.events] == [0, *limited][: len(episode)]
    assert not episode.manifest.closed
    assert episode.manifest.outcome is None


def kill_trials(folder: Path, mode: str, trials: int, seed: int) -> list[tuple[Episode, int]]:
    """Record in several processes at once and kill each at its own random moment."""
    rng = random.Random(seed)
    recordings = [Recording(folder / f"{mode}-{seed}-{trial}.zarr", mode) for trial in range(trials)]
    waits = [rng.randrange(1, 160) for _ in recordings]
    for recording, ticks in sorted(zip(recordings, waits, strict=True), key=lambda item: item[1]):
        recording.wait_for_tick(ticks)
        time.sleep(rng.random() * 0.02)
        recording.kill()
    return [(settled(recording.path), recording.last_reported()) for recording in recordings]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_killed_real_time_recording_opens_and_has_lost_at_most_100_ms(seed: int, tmp_path: Path) -> None:
    for episode, reported in kill_trials(tmp_path, "realtime", 4, seed):
        assert_intact(episode, reported)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 25))
def test_a_killed_real_time_recording_opens_again_and_again(seed: int, tmp_path: Path) -> None:
    for episode, reported in kill_trials(tmp_path, "realtime", 4, seed):
        assert_intact(episode, reported)


def test_a_killed_lock_step_recording_opens_with_its_whole_blocks(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "l.zarr", "lockstep")
    recording.wait_for_tick(270)
    recording.kill()
    episode = settled(recording.path)
    assert episode.recovered
    assert len(episode) == 256
    assert verify(episode) == ()


@pytest.mark.parametrize("mode", ["realtime", "lockstep"])
def test_ctrl_c_closes_the_store(mode: str, tmp_path: Path) -> None:
    recording = Recording(tmp_path / "c.zarr", mode)
    recording.wait_for_tick(60)
    recording.interrupt()
    episode = open_episode(recording.path)
    assert episode.manifest.closed
    assert episode.manifest.outcome is not None
    assert episode.manifest.outcome.reason == "interrupted"
    assert len(episode) >= recording.last_reported()
    assert not episode.recovered
    assert verify(episode) == ()
    root = zarr.open_group(str(recording.path), mode="r")
    assert root["ticks/tick"].shape == (len(episode),)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_live_recording_can_be_read(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "v.zarr", "realtime")
    try:
        recording.wait_for_tick(80)
        episode = open_episode(recording.path)
        assert episode.live
        assert len(episode) >= 40
    finally:
        recording.kill()
    settled(recording.path)


# --------------------------------------------------------------------------- when the recorder is in trouble


def record(writer: EpisodeWriter, ticks: range, pictures: int = 0, size: int = 16) -> None:
    for tick in ticks:
        if pictures and tick % pictures == 0:
            writer.record_observation(simple_observation(tick, size=size))
        writer.record_tick(*simple_tick(tick), b"")


def recorder_pid(path: Path) -> int:
    """The recording process of a store, from the process table."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"episodes.recorder" in arguments and str(path.resolve()).encode() in arguments:
                return int(entry.name)
    raise AssertionError("no recording process")


def process_state(pid: int) -> str:
    """One letter, as in ps: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def kill_recorder(path: Path) -> None:
    os.kill(recorder_pid(path), signal.SIGKILL)


def record_until(writer: EpisodeWriter, condition: Callable[[], bool]) -> None:
    """Go on recording at about 200 Hz until something is so."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        tick = writer.ticks
        if tick % 10 == 0:
            writer.record_observation(simple_observation(tick))
        writer.record_tick(*simple_tick(tick), b"")
        time.sleep(0.005)


def test_a_killed_recorder_is_started_again_and_no_tick_is_lost(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "d.zarr", manifest(realtime=True)).open()
    record(writer, range(100))
    assert (writer.failure, writer.trouble) == ("", "")
    kill_recorder(writer.path)
    record_until(writer, lambda: writer.trouble != "")
    assert "the recording process ended" in writer.trouble
    record_until(writer, lambda: writer.trouble == "")
    record(writer, range(writer.ticks, writer.ticks + 100), pictures=10)
    ticks = writer.ticks
    writer.close(Outcome(True, "success"))
    episode = open_episode(writer.path)
    assert len(episode) == ticks
    assert episode.manifest.closed
    assert verify(episode) == ()
    (fault,) = episode.manifest.log_faults
    assert fault.cause == "the recording process ended (killed by SIGKILL)"
    assert 80 <= fault.first_tick <= 200
    assert fault.seconds > 0.0
    assert fault.lost_ticks == 0
    assert writer.report.faults == (fault,)
    assert writer.report.lost_ticks == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_recorder_killed_at_any_moment_leaves_every_record_once(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    writer = EpisodeWriter(tmp_path / "k.zarr", manifest(realtime=True)).open()
    observed: list[int] = []
    for _ in range(rng.randint(1, 3)):
        killer = threading.Timer(rng.uniform(0.0, 0.3), kill_recorder, (writer.path,))
        killer.start()
        # Faster than any loop, so that the recorder is always at work when it is killed.
        while writer.trouble == "":
            tick = writer.ticks
            if tick % 20 == 0:
                writer.record_observation(simple_observation(tick))
                observed.append(tick)
            writer.record_tick(*simple_tick(tick), b"")
            if tick % 40 == 0:
                time.sleep(0.002)
        killer.join()
        while writer.trouble != "":
            writer.record_tick(*simple_tick(writer.ticks), b"")
            time.sleep(0.005)
    ticks = writer.ticks
    writer.close(Outcome(None, "done"))
    episode = open_episode(writer.path)
    assert len(episode) == ticks
    assert verify(episode) == ()
    assert episode.observations.tick.tolist() == observed
    for index in rng.sample(range(ticks), 20):
        assert bits(episode.decoder.inputs(index)) == bits(simple_tick(index)[0])


def test_a_recorder_killed_while_it_finishes_is_replaced(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "f.zarr", manifest(realtime=True)).open()
    record(writer, range(100))
    os.kill(recorder_pid(writer.path), signal.SIGSTOP)
    record(writer, range(100, 300))
    threading.Timer(0.5, kill_recorder, (writer.path,)).start()
    writer.close(Outcome(True, "success"))
    episode = open_episode(writer.path)
    assert len(episode) == 300
    assert episode.manifest.closed
    assert episode.manifest.outcome is not None
    assert episode.manifest.outcome.success is True
    assert verify(episode) == ()


def test_a_recorder_that_ends_again_and_again_does_not_stop_the_loop_but_is_reported(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "d.zarr", manifest(realtime=True)).open()
    record(writer, range(100))
    for _ in range(3):
        kill_recorder(writer.path)
        record_until(writer, lambda: writer.trouble != "")
        record_until(writer, lambda: writer.trouble == "")
    kill_recorder(writer.path)
    record_until(writer, lambda: writer.failure != "")
    record(writer, range(writer.ticks, writer.ticks + 100), pictures=10)
    with pytest.raises(EpisodeError, match="expected a recording process that answers, found the recording process"):
        writer.close(Outcome(True, "success"))
    episode = open_episode(writer.path)
    assert 100 <= len(episode) < writer.ticks
    assert writer.report.lost_ticks == writer.ticks - len(episode)
    assert not episode.manifest.closed


def test_a_stalled_recorder_costs_frames_and_no_ticks(tmp_path: Path) -> None:
    size = 1024  # 6 MiB an observation: the bound is reached after some twenty
    writer = EpisodeWriter(tmp_path / "s.zarr", manifest(realtime=True)).open()
    pid = recorder_pid(writer.path)
    os.kill(pid, signal.SIGSTOP)
    try:
        observation = simple_observation(0, size=size)
        for tick in range(400):
            if tick % 10 == 0:
                writer.record_observation(observation)
            writer.record_tick(*simple_tick(tick), b"")
        # A loop that waited for its log would not have got here: nobody reads yet.
        assert process_state(pid) == "T"
        assert writer.ticks == 400
        assert isinstance(writer._backend, ProcessBackend)
        assert writer.failure == ""
    finally:
        os.kill(pid, signal.SIGCONT)
    writer.close(Outcome(None, "done"))
    episode = open_episode(writer.path)
    assert len(episode) == 400
    dropped = episode.manifest.dropped_frames
    assert sum(dropped.values()) > 0
    kept = {camera: int(episode.present(camera).sum()) for camera in episode.cameras}
    assert sum(kept.values()) * size * size * 3 <= FRAME_BACKLOG_BYTES + (8 << 20)
    assert {camera: kept[camera] + dropped[camera] for camera in kept} == {"wrist": 40, "front": 40}
    missing = int(np.flatnonzero(~episode.present("front"))[0])
    assert episode.image("front", missing) is None
    assert len(episode.observations.tick) == 40
    assert verify(episode) == ()


@pytest.mark.parametrize("realtime", [False, True])
def test_observations_may_come_from_other_threads(realtime: bool, tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "t.zarr", manifest(realtime=realtime)).open()

    def capture(ticks: range) -> None:
        for tick in ticks:
            writer.record_observation(simple_observation(tick))

    threads = [threading.Thread(target=capture, args=(range(part, 200, 2),)) for part in range(2)]
    for thread in threads:
        thread.start()
    record(writer, range(400))
    for thread in threads:
        thread.join()
    writer.close(Outcome(None, "done"))
    episode = open_episode(writer.path)
    assert len(episode) == 400
    assert sorted(episode.observations.tick.tolist()) == list(range(200))
    for index in (0, 77, 199):
        expected = simple_observation(int(episode.observations.tick[index]))
        assert bits(episode.observation(index)) == bits(expected)
    assert verify(episode) == ()


def test_pictures_that_are_reused_after_recording_are_logged_as_they_were(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "r.zarr", manifest(realtime=True)).open()
    buffer = np.full((32, 32, 3), 7, np.uint8)
    view = buffer.view()
    view.flags.writeable = False
    observation = simple_observation(0)
    for tick in range(3):
        buffer[:] = tick
        writer.record_observation(
            type(observation)({"wrist": view}, observation.state, observation.commanded_pose, "", 0)
        )
    buffer[:] = 99
    record(writer, range(3))
    writer.close(Outcome(None, "done"))
    assert open_episode(writer.path).images("wrist")[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_being_killed_while_closing_loses_nothing(tmp_path: Path) -> None:
    """Every state that closing can be killed in: some arrays written, the journal still there."""
    writer = EpisodeWriter(tmp_path / "a.zarr", manifest()).open()
    record(writer, range(300), pictures=50)
    journal = (writer.path / JOURNAL_NAME).read_bytes()
    writer.close(Outcome(True, "success"))
    shutil.rmtree(writer.path / "ticks" / "now_ns")
    (writer.path / JOURNAL_NAME).write_bytes(journal)
    episode = open_episode(writer.path)
    assert episode.recovered
    assert len(episode) == 256
