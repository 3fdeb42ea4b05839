"""Episodes as rerun recordings: cameras, poses, joints, forces, safety, tokens and events on common timelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from controllers.types import FloatArray, SafetyStatus
from episodes.episode import Episode
from episodes.exchange.files import new_folder
from episodes.exchange.joints import joint_names
from episodes.exchange.losses import Loss, LossKind, merged, write_losses
from episodes.exchange.protocols import Exported
from episodes.extras import load
from episodes.packing import EventRow
from episodes.reader import open_episode
from episodes.schema import EventKind

EXTRA = "viz"
_STATUSES = tuple(SafetyStatus)


@dataclass(frozen=True)
class RerunOptions:
    """How episodes become recordings."""

    jpeg_quality: int = 0
    """0 keeps pictures as lossless PNG; 1 to 100 makes them JPEG of that quality."""

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ValueError: The quality is out of range.
        """
        if not 0 <= self.jpeg_quality <= 100:
            raise ValueError(f"rerun.jpeg-quality: expected 0 (lossless) to 100, found {self.jpeg_quality}")


class RerunExporter:
    """Writes OUT/NAME.rrd."""

    def __init__(self, options: RerunOptions | None = None) -> None:
        """Choose how."""
        self._options = options or RerunOptions()

    def export(self, episodes: Sequence[Path], out: Path) -> Exported:
        """Write a recording of every episode."""
        load("rerun", EXTRA)
        losses: list[Loss] = []
        with new_folder(out) as scratch:
            for path in episodes:
                episode = open_episode(path)
                write_recording(episode, scratch / f"{path.stem}.rrd", self._options.jpeg_quality)
                losses += rerun_losses(episode, self._options.jpeg_quality)
        write_losses(out, merged(losses))
        return Exported(out, tuple(out / f"{path.stem}.rrd" for path in episodes), len(episodes), merged(losses))


def rerun_losses(episode: Episode, jpeg_quality: int) -> list[Loss]:
    """What a recording does not keep."""
    losses = [
        Loss("ticks, poses", LossKind.ROUNDED, "rerun's transforms are float32; scalars stay float64"),
        Loss(
            "physics, model_xml, labels, hash chain", LossKind.ABSENT, "a recording is for looking, not for execution"
        ),
        Loss("manifest", LossKind.TEXT, "as a text document"),
        Loss("events", LossKind.TEXT, "as log lines"),
    ]
    if jpeg_quality and episode.cameras:
        losses.append(Loss("pictures", LossKind.COMPRESSED, f"JPEG of quality {jpeg_quality}"))
    return losses


def write_recording(episode: Episode, path: Path, jpeg_quality: int) -> None:
    """Write ``path``."""
    rr = load("rerun", EXTRA)
    stream = rr.RecordingStream("vla-stack", recording_id=episode.manifest.episode_id or path.stem)
    stream.save(str(path))
    writer = _Stream(rr, stream, episode)
    writer.document("manifest", _summary(episode))
    writer.ticks()
    writer.pictures(jpeg_quality)
    writer.tokens()
    for event in episode.events:
        writer.event(event)
    stream.flush()
    stream.disconnect()


class _Stream:
    """One recording being written."""

    def __init__(self, rr: Any, stream: Any, episode: Episode) -> None:
        self._rr, self._stream, self._episode = rr, stream, episode
        ticks = episode.ticks
        self._start = int(ticks.now_ns[0]) if len(episode) else 0
        self._seconds: FloatArray = np.asarray((ticks.now_ns - self._start) * 1e-9, np.float64)

    def document(self, path: str, text: str) -> None:
        self._stream.log(path, self._rr.TextDocument(text, media_type="text/markdown"), static=True)

    def _at(self, seconds: FloatArray, rows: Any) -> list[Any]:
        rr = self._rr
        return [rr.TimeColumn("time", duration=seconds), rr.TimeColumn("tick", sequence=rows)]

    def _scalars(self, path: str, values: FloatArray, names: Sequence[str]) -> None:
        """A path with ``names`` below it; (T, k) values."""
        rr, ticks = self._rr, self._episode.ticks.tick
        for column, name in enumerate(names):
            self._stream.send_columns(
                f"{path}/{name}",
                indexes=self._at(self._seconds, ticks),
                columns=rr.Scalars.columns(scalars=values[:, column]),
            )

    def ticks(self) -> None:
        ticks, joints = self._episode.ticks, joint_names(self._episode)
        if not len(self._episode):
            return
        self._scalars("joints/position", ticks.state_joint_position, joints)
        self._scalars("joints/velocity", ticks.state_joint_velocity, joints)
        self._scalars("joints/effort", ticks.state_joint_effort, joints)
        self._scalars("command/candidate", ticks.command_values, joints)
        self._scalars("command/applied", ticks.applied_values, joints)
        self._scalars("end_effector/measured", ticks.state_ee_pose[:, :3], "xyz")
        self._scalars("end_effector/target", ticks.commanded_pose[:, :3], "xyz")
        self._scalars("wrist/force", ticks.state_wrench[:, :3], "xyz")
        self._scalars("wrist/torque", ticks.state_wrench[:, 3:], "xyz")
        gripper = np.stack((ticks.state_gripper_opening, ticks.applied_gripper_opening), axis=1)
        self._scalars("gripper", gripper, ("measured", "commanded"))
        safety = np.stack((ticks.safety_speed_scale, ticks.safety_min_margin), axis=1)
        self._scalars("safety", safety, ("speed_scale", "min_margin"))
        for name, poses in (("measured", ticks.state_ee_pose), ("target", ticks.commanded_pose)):
            self._poses(f"scene/{name}", poses)
        changes = np.flatnonzero(np.diff(ticks.safety_status.astype(np.int64), prepend=-1)).tolist()
        for index in changes:
            self._moment(float(self._seconds[index]), int(ticks.tick[index]))
            status = _STATUSES[int(ticks.safety_status[index])].value
            self._stream.log("safety/status", self._rr.TextLog(status, level=_level(status)))

    def _poses(self, path: str, poses: FloatArray) -> None:
        rr = self._rr
        known = np.isfinite(poses).all(axis=1)
        if not known.any():
            return
        self._stream.log(path, rr.TransformAxes3D(0.08), static=True)
        self._stream.log(f"{path}_path", rr.LineStrips3D([poses[known, :3]]), static=True)
        quaternions = poses[known][:, [4, 5, 6, 3]]  # rerun puts the scalar last
        self._stream.send_columns(
            path,
            indexes=self._at(self._seconds[known], self._episode.ticks.tick[known]),
            columns=rr.Transform3D.columns(translation=poses[known, :3], quaternion=quaternions),
        )

    def _moment(self, seconds: float, tick: int) -> None:
        self._stream.set_time("time", duration=seconds)
        self._stream.set_time("tick", sequence=tick)

    def pictures(self, jpeg_quality: int) -> None:
        rr, episode = self._rr, self._episode
        table = episode.observations
        said = ""
        for row in range(len(table.stamp_ns)):
            self._moment((int(table.stamp_ns[row]) - self._start) * 1e-9, int(table.tick[row]))
            observation = episode.observation(row)
            if observation.instruction != said:
                said = observation.instruction
                self._stream.log("instruction", rr.TextDocument(said))
            for camera, picture in observation.images.items():
                data, kind = _encode(picture, jpeg_quality)
                self._stream.log(f"camera/{camera}", rr.EncodedImage(contents=data, media_type=kind))

    def tokens(self) -> None:
        rr, episode = self._rr, self._episode
        chunks, first = episode.chunks, int(episode.ticks.tick[0]) if len(episode) else 0
        for index in np.flatnonzero(chunks.malformed == 0).tolist():
            tick = int(chunks.arrival_tick[index])
            self._moment(float(self._seconds[tick - first]), tick)
            self._stream.log("policy/tokens", rr.Tensor(chunks.tokens[index], dim_names=("horizon", "dims")))

    def event(self, event: EventRow) -> None:
        if event.kind is EventKind.TARGET_FRAME:
            return
        first = int(self._episode.ticks.tick[0])
        self._moment(float(self._seconds[event.tick - first]), event.tick)
        level = "WARN" if event.kind in (EventKind.REJECTION, EventKind.SAFETY_REASON) else "INFO"
        text = f"{event.kind.value} {event.name} chunk {event.chunk_id} {event.value:.4g} {event.message}"
        self._stream.log(f"events/{event.kind.value}", self._rr.TextLog(text, level=level))


def _level(status: str) -> str:
    return {"run": "INFO", "limiting": "WARN", "off": "WARN", "hold": "WARN"}.get(status, "ERROR")


def _encode(picture: Any, jpeg_quality: int) -> tuple[bytes, str]:
    module = cast(Any, cv2)
    if jpeg_quality:
        _, data = module.imencode(".jpg", picture[..., ::-1], [module.IMWRITE_JPEG_QUALITY, jpeg_quality])
        return data.tobytes(), "image/jpeg"
    _, data = module.imencode(".png", picture[..., ::-1])
    return data.tobytes(), "image/png"


def _summary(episode: Episode) -> str:
    manifest = episode.manifest
    outcome = manifest.outcome
    rows = {
        "task": manifest.task,
        "instruction": manifest.instruction,
        "seed": manifest.seed,
        "robot": manifest.robot,
        "policy": manifest.policy.name,
        "tokenizer": manifest.tokenizer_id,
        "outcome": "not closed" if outcome is None else f"{outcome.reason} (success {outcome.success})",
        "clock": "real time" if manifest.realtime else "lock-step",
    }
    return "\n".join(f"- **{name}**: {value}" for name, value in rows.items())
