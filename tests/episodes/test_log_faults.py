"""A log whose disk is full, forbidden or slow: the loop goes on or holds, and no tick is lost silently."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from controllers.drivers import LogFailure, OverrunPolicy, StopReason, run_realtime
from controllers.types import ChunkArrival, Observation, OperatorEvent, TickInputs, TickOutputs
from episodes.episode import Episode
from episodes.errors import EpisodeError, LogLossError
from episodes.journal import JOURNAL_NAME, RESERVE_NAME
from episodes.log_faults import CLOSING_PATIENCE_S, LogReport
from episodes.manifest import LogFault, Outcome
from episodes.reader import open_episode
from episodes.report.sections import episode_section
from episodes.schema import EventKind
from episodes.store import finalize
from episodes.verification import verify
from episodes.writer import EpisodeWriter
from tests.episodes.builders import MODEL_XML, SpringPlant, bits, build_loop, manifest, simple_observation, simple_tick
from tests.episodes.test_crashes import record, recorder_pid


class SmallDisk:
    """A real file system of 2 MiB that can be filled up and emptied again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Take all room but ``leave`` bytes."""
        with self._ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)) == 4096:
                    pass
            except OSError:
                pass
            os.ftruncate(file.fileno(), max(0, file.tell() - leave))

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a small file system needs the right to mount one")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for another process to get there; how long does not matter."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.01)


def record_until(writer: EpisodeWriter, condition: Callable[[], bool], what: str) -> None:
    """Go on ticking until another process got there."""
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        record(writer, range(writer.ticks, writer.ticks + 10))
        time.sleep(0.01)


def assert_ticks(episode: Episode, count: int) -> None:
    """Exactly ticks 0 to ``count`` are there, whole and with an intact chain."""
    np.testing.assert_array_equal(episode.ticks.tick, np.arange(count))
    assert verify(episode) == ()
    for index in range(0, count, 23):
        _, outputs = simple_tick(index)
        assert bits(episode.decoder.outputs(index)) == bits(outputs)


# ------------------------------------------------------------------------------------------- a full disk


def test_a_full_disk_that_gets_room_again_costs_frames_and_no_tick(disk: SmallDisk) -> None:
    writer = EpisodeWriter(disk.folder / "f.zarr", manifest(realtime=True), model_xml=MODEL_XML).open()
    record(writer, range(100))
    disk.fill()
    record_until(writer, lambda: writer.trouble != "", "in trouble")
    assert writer.trouble == "the log's disk refuses: No space left on device"
    assert writer.failure == ""
    record(writer, range(writer.ticks, writer.ticks + 200), pictures=50)
    disk.empty()
    record_until(writer, lambda: writer.trouble == "", "out of trouble")
    ticks = writer.ticks
    writer.close(Outcome(True, "success"))
    episode = open_episode(writer.path)
    assert_ticks(episode, ticks)
    assert not episode.recovered
    (fault,) = episode.manifest.log_faults
    assert (fault.cause, fault.lost_ticks) == ("No space left on device", 0)
    assert 0 <= fault.first_tick < ticks
    assert writer.report == LogReport((fault,), dropped_frames=fault.lost_frames)
    assert sum(episode.manifest.dropped_frames.values()) == fault.lost_frames == 8
    assert "No space left on device" in episode_section(episode)


def test_a_disk_that_stays_full_loses_the_last_ticks_and_says_how_many(disk: SmallDisk) -> None:
    writer = EpisodeWriter(disk.folder / "f.zarr", manifest(realtime=True), model_xml=MODEL_XML).open()
    record(writer, range(100))
    disk.fill()
    record_until(writer, lambda: writer.trouble != "", "in trouble")
    ticks = writer.ticks
    with pytest.raises(LogLossError) as caught:
        writer.close(Outcome(True, "success"))
    lost = writer.report.lost_ticks
    assert str(caught.value).replace(f"{disk.folder}/", "") == (
        f"f.zarr: expected a disk that takes the log, found {lost} ticks lost: the disk refused to the end: No space "
        "left on device; make room or choose another folder; open_episode reads what was written before"
    )
    episode = open_episode(writer.path)
    assert 0 < lost <= ticks  # a busy recorder may not have written any before
    assert_ticks(episode, ticks - lost)
    (fault,) = episode.manifest.log_faults
    assert (fault.first_tick, fault.lost_ticks) == (ticks - lost, lost)
    assert fault.seconds >= CLOSING_PATIENCE_S
    assert episode.manifest.closed
    assert episode.manifest.outcome == Outcome(True, "success", ticks - lost)


def test_a_disk_without_room_for_the_finished_store_keeps_the_journal(disk: SmallDisk) -> None:
    writer = EpisodeWriter(disk.folder / "f.zarr", manifest(realtime=True), model_xml=MODEL_XML).open()
    disk.fill(leave=300 * 1024)
    record(writer, range(200))
    with pytest.raises(
        LogLossError, match=r"found the journal is complete, the finished store is not: .*No space left"
    ):
        writer.close(Outcome(True, "success"))
    assert writer.report.lost_ticks == 0
    assert sorted(item.name for item in writer.path.iterdir()) == [JOURNAL_NAME, "zarr.json"]
    episode = open_episode(writer.path)
    assert episode.recovered
    assert_ticks(episode, 200)
    assert episode.manifest.closed
    disk.empty()
    finalize(writer.path)
    episode = open_episode(writer.path)
    assert not episode.recovered
    assert_ticks(episode, 200)


def test_in_lock_step_a_full_disk_ends_the_episode_which_says_so(disk: SmallDisk) -> None:
    path = disk.folder / "l.zarr"

    def run() -> None:
        with EpisodeWriter(path, manifest(), model_xml=MODEL_XML) as writer:
            record(writer, range(300))
            disk.fill()
            record(writer, range(300, 2000))

    with pytest.raises(LogLossError, match=r"expected a disk that takes the log, found .*No space left on device"):
        run()
    episode = open_episode(path)
    assert_ticks(episode, 256)
    assert episode.manifest.outcome is not None
    assert "No space left" in episode.manifest.outcome.reason
    assert episode.manifest.log_faults == (LogFault("No space left on device", 256, 0.0, 0, 256),)


def test_no_episode_begins_on_a_full_disk(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(EpisodeError) as caught:
        EpisodeWriter(disk.folder / "n.zarr", manifest(realtime=True), model_xml=MODEL_XML).open()
    message = str(caught.value).replace(str(disk.folder), "")
    assert message.startswith("/n.zarr: expected a disk that takes the log, found [Errno 28] No space left on device")
    assert message.endswith("make room, check the permissions or choose another folder; nothing has moved yet")
    assert not (disk.folder / "n.zarr").exists()


def test_the_reserve_is_given_back(tmp_path: Path) -> None:
    for realtime in (True, False):
        with EpisodeWriter(tmp_path / f"{realtime}.zarr", manifest(realtime=realtime)) as writer:
            record(writer, range(3))
            assert (writer.path / RESERVE_NAME).stat().st_size > 0
        assert not (writer.path / RESERVE_NAME).exists()


# ---------------------------------------------------------------------------------------- no permission


def test_a_quota_is_survived_like_a_full_disk(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "q.zarr", manifest(realtime=True), model_xml=MODEL_XML).open()
    pid = recorder_pid(writer.path)
    size = (writer.path / JOURNAL_NAME).stat().st_size
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 20_000, resource.RLIM_INFINITY))
    record_until(writer, lambda: writer.trouble != "", "in trouble")
    assert writer.trouble == "the log's disk refuses: File too large"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    record_until(writer, lambda: writer.trouble == "", "out of trouble")
    ticks = writer.ticks
    writer.close(Outcome(None, "done"))
    episode = open_episode(writer.path)
    assert_ticks(episode, ticks)
    assert [fault.cause for fault in episode.manifest.log_faults] == ["File too large"]


def immutable(path: Path, on: bool) -> bool:
    """Forbid everybody, root too, to write a file; whether that is possible here."""
    command = ["chattr", "+i" if on else "-i", str(path)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_journal_that_may_not_be_written_any_more_waits_until_it_may(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "p.zarr", manifest(realtime=True), model_xml=MODEL_XML).open()
    journal = writer.path / JOURNAL_NAME
    record(writer, range(50))
    if not immutable(journal, True):
        writer.close(Outcome(None, "done"))
        pytest.skip("taking a permission from root needs chattr and a file system that knows it")
    try:
        record_until(writer, lambda: writer.trouble != "", "in trouble")
        assert writer.trouble == "the log's disk refuses: Operation not permitted"
    finally:
        immutable(journal, False)
    record_until(writer, lambda: writer.trouble == "", "out of trouble")
    ticks = writer.ticks
    writer.close(Outcome(None, "done"))
    episode = open_episode(writer.path)
    assert_ticks(episode, ticks)
    assert [fault.cause for fault in episode.manifest.log_faults] == ["Operation not permitted"]


# ---------------------------------------------------------------------------------------- a slow disk


class SilentClient:
    """A ``PolicyClient`` that never answers."""

    def request(self, observation: Observation) -> None:
        del observation

    def poll(self, now_ns: int) -> tuple[ChunkArrival, ...]:
        del now_ns
        return ()


@pytest.mark.parametrize("policy", list(LogFailure))
def test_the_arm_holds_or_goes_on_while_the_disk_takes_nothing(policy: LogFailure, tmp_path: Path) -> None:
    """The recorder is stopped, as by a disk that blocks it, and goes on later: a whole loop in real time."""
    data = manifest(realtime=True, log_failure=policy.value)
    writer = EpisodeWriter(tmp_path / "s.zarr", data, initial_state=np.zeros(7)).open()
    pid = recorder_pid(writer.path)
    seen: list[int] = []  # ticks at which there was trouble

    def events(tick: int) -> tuple[OperatorEvent, ...]:
        if tick == 50:
            os.kill(pid, signal.SIGSTOP)
        if writer.trouble:
            seen.append(tick)
            if len(seen) == 20:
                os.kill(pid, signal.SIGCONT)
        return ()

    def stop(inputs: TickInputs, outputs: TickOutputs) -> StopReason | None:
        del outputs
        return StopReason.SUCCESS if seen and inputs.tick > seen[-1] + 20 else None

    try:
        summary = run_realtime(
            build_loop(),
            SpringPlant(3.0),
            SilentClient(),
            lambda state, pose, prefix: writer.record_observation(simple_observation(0)),
            writer,
            max_ticks=20_000,
            stop=stop,
            clock=time.monotonic_ns,
            events=events,
            overruns=OverrunPolicy(hold_after=0),
            log=writer,
            log_failure=policy,
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    writer.close(Outcome(True, "success"))
    episode = open_episode(writer.path)
    assert summary.reason is StopReason.SUCCESS
    assert len(episode) == summary.ticks
    assert verify(episode) == ()
    said = [row.name for row in episode.events if row.kind is EventKind.OPERATOR]
    assert said == (["hold", "resume"] if policy is LogFailure.HOLD else [])
    (fault,) = episode.manifest.log_faults
    assert fault.cause == "the recording process took nothing: a slow disk, or it was stopped"
    assert fault.first_tick >= 40  # the recorder was stopped at tick 50, with some of them not yet taken
    assert (fault.lost_ticks, fault.lost_frames) == (0, 0)
    assert writer.report == LogReport((fault,))
