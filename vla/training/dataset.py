"""Recorded episodes packed for fast random access.

The cache holds every labelled frame of every episode in two flat files that are memory-mapped, and one line of JSON for
each episode. A line is written after its frames are on disk, so an interrupted update loses at most one episode, and an
update only reads what is new. ``sources`` says where episodes come from.

Beside a recorded episode there may be ``NAME.others.npz``: labels for other instructions at the same observations
(``sim.other_goals`` writes it). They become further episodes that share the pictures.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from controllers.types import ActionSpec
from vla.compact.preprocess import PROPRIOCEPTION_DIMS
from vla.training.sources import (
    CAMERAS,
    EpisodeError,
    EpisodeFile,
    Layout,
    Recorded,
    Source,
    episode_files,
    way_to_next_grip,
)

OTHERS_SUFFIX = ".others.npz"


@dataclass(frozen=True)
class EpisodeEntry:
    """One line of the cache's index.

    Attributes:
        path: Absolute path of the store, or of an episode within a data set.
        start: First frame in the packed files.
        count: Number of frames.
        instruction: Language goal.
        task: Task name.
        seed: Seed of the scene.
        success: Whether the recorded episode succeeded.
        skipped: Observations that were left out: no label, or a camera frame was dropped.
        other: 0 for the episode as it was asked for, 1 and up for the labels of another instruction.
    """

    path: str
    start: int
    count: int
    instruction: str
    task: str
    seed: int
    success: bool
    skipped: int
    other: int = 0


@dataclass(frozen=True)
class UpdateReport:
    """What an update of the cache did.

    Attributes:
        added: Episodes packed now.
        known: Episodes that were packed before.
        waiting: Stores that are not finished (no labels or no manifest yet), with the reason.
    """

    added: int
    known: int
    waiting: tuple[tuple[str, str], ...]


class PackedDataset:
    """The cache: labelled frames in flat files, grown episode by episode."""

    def __init__(self, folder: Path, layout: Layout | None = None) -> None:
        """Open or create a cache, and drop what an interrupted update left behind.

        Raises:
            ValueError: It was made with another layout.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.layout = layout or Layout()
        self._image_shape = self.layout.image_shape
        self._image_bytes = int(np.prod(self._image_shape))
        self._frame_type = np.dtype(
            [
                ("state", "<f4", (PROPRIOCEPTION_DIMS,)),
                ("goal", "<f4", (3,)),
                ("tokens", "<i2", (self.layout.horizon, self.layout.dims)),
                ("episode", "<i4"),
                ("image", "<i4"),
            ]
        )
        self.episodes: list[EpisodeEntry] = []
        self.spec: ActionSpec | None = None
        self._present: frozenset[str] = frozenset()
        self._load()

    @property
    def _index(self) -> Path:
        return self._folder / "episodes.jsonl"

    def _load(self) -> None:
        layout = {"image_shape": list(self._image_shape), "frame_bytes": self._frame_type.itemsize}
        header = self._folder / "cache.json"
        if header.exists():
            found = json.loads(header.read_text())
            cameras = found.get("cameras", list(CAMERAS))
            if found["layout"] != layout or cameras != list(self.layout.cameras):
                raise ValueError(
                    f"the cache {self._folder} has another layout: expected {layout} of the cameras "
                    f"{', '.join(self.layout.cameras)}, found {found['layout']} of {', '.join(cameras)}; choose "
                    "another folder for it"
                )
            self.spec = ActionSpec.from_json(found["spec"]) if found["spec"] else None
        else:
            header.write_text(json.dumps({"layout": layout, "cameras": list(self.layout.cameras), "spec": None}))
        lines = self._index.read_text().splitlines(keepends=True) if self._index.exists() else []
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
            self._index.write_text("".join(lines))
        self.episodes = [EpisodeEntry(**json.loads(line)) for line in lines]
        frame_bytes = self._frame_type.itemsize
        for name, size in (("images.u8", self._pictures * self._image_bytes), ("frames.bin", self.count * frame_bytes)):
            path = self._folder / name
            path.touch()
            os.truncate(path, size)
        self._map()

    def _map(self) -> None:
        n = self.count
        if n:
            shape = (self._pictures, *self._image_shape)
            self.images = np.memmap(self._folder / "images.u8", np.uint8, "r", shape=shape)
            self.frames = np.fromfile(self._folder / "frames.bin", self._frame_type, n)
        else:
            self.images = np.zeros((0, *self._image_shape), np.uint8)
            self.frames = np.zeros(0, self._frame_type)

    @property
    def count(self) -> int:
        """Number of packed frames."""
        return self.episodes[-1].start + self.episodes[-1].count if self.episodes else 0

    @property
    def _pictures(self) -> int:
        """Number of packed observations; frames of other instructions share them."""
        return sum(entry.count for entry in self.episodes if entry.other == 0)

    def update(self, sources: Sequence[Source]) -> UpdateReport:
        """Pack the episodes that are new in the sources.

        Raises:
            EpisodeError: An episode is malformed, or its action spec or tokenizer differs from the others'.
        """
        known = {entry.path for entry in self.episodes}
        shared = {entry.path for entry in self.episodes if entry.other}
        added, seen, waiting = 0, 0, []
        # Those that write their actions under the others' spec come after them.
        files = sorted((file for source in sources for file in episode_files(source)), key=lambda f: f.borrows_spec)
        self._present = frozenset(file.key for file in files)
        for file in files:
            if file.key in known:
                seen += 1
                continue
            reason = self._add(file)
            if reason:
                waiting.append((file.key, reason))
            else:
                added += 1
        self._map()
        for entry in tuple(self.episodes):
            if entry.other == 0 and entry.path not in shared:
                self._add_others(entry)
        self._map()
        return UpdateReport(added, seen, tuple(waiting))

    def holds(self, entry: EpisodeEntry) -> bool:
        """Whether a packed episode is still what the last update found.

        A store is, even when it was deleted since it was packed. An episode of a data set that was exported or declared
        anew is another one; the old frames stay in the cache, and are not drawn.
        """
        return entry.path.endswith(".zarr") or entry.path in self._present

    def _add(self, file: EpisodeFile) -> str:
        """Pack one episode; a reason if it is not finished yet."""
        answer = file.read(self.layout, self.spec)
        if isinstance(answer, str):
            return answer
        spec, recorded = answer
        self._check_spec(file.key, spec)
        if not len(recorded.tokens):
            return "no labelled observation"
        frames = self._packed(recorded)
        entry = EpisodeEntry(
            path=file.key,
            start=self.count,
            count=len(frames),
            instruction=recorded.instruction,
            task=recorded.task,
            seed=recorded.seed,
            success=recorded.success,
            skipped=recorded.skipped,
        )
        _append(self._folder / "images.u8", recorded.images.tobytes())
        _append(self._folder / "frames.bin", frames.tobytes())
        _append(self._index, (json.dumps(asdict(entry)) + "\n").encode())
        self.episodes.append(entry)
        return ""

    def _packed(self, recorded: Recorded) -> np.ndarray:
        frames = np.zeros(len(recorded.tokens), self._frame_type)
        frames["tokens"], frames["state"] = recorded.tokens, recorded.state
        frames["goal"] = way_to_next_grip(frames["state"][:, :3], frames["tokens"])
        if not recorded.success:
            frames["goal"] = np.nan
        frames["episode"] = len(self.episodes)
        frames["image"] = self._pictures + np.arange(len(frames))
        return frames

    def _add_others(self, entry: EpisodeEntry) -> None:
        """Pack the labels of other instructions beside a packed episode, if there are any."""
        path = Path(entry.path)
        if path.suffix != ".zarr":
            return
        beside = path.with_name(path.stem + OTHERS_SUFFIX)
        if not beside.exists():
            return
        with np.load(beside) as data:
            tokens, instructions = data["tokens"], [str(words) for words in data["instructions"]]
        if tokens.shape[1] != entry.count:  # an observation was left out of the episode, so rows do not correspond
            return
        frames = self.frames[entry.start : entry.start + entry.count].copy()
        frames["goal"] = np.nan
        for number, (labels, instruction) in enumerate(zip(tokens, instructions, strict=True), start=1):
            frames["tokens"], frames["episode"] = labels, len(self.episodes)
            further = replace(entry, start=self.count, instruction=instruction, other=number)
            _append(self._folder / "frames.bin", frames.tobytes())
            _append(self._index, (json.dumps(asdict(further)) + "\n").encode())
            self.episodes.append(further)

    def _check_spec(self, where: str, spec: ActionSpec) -> None:
        if self.spec is None:
            self.spec = spec
            header = self._folder / "cache.json"
            data = json.loads(header.read_text())
            header.write_text(json.dumps({**data, "spec": spec.to_json()}))
        elif spec.hash != self.spec.hash:
            raise EpisodeError(
                f"{where}: expected action spec {self.spec.hash}, found {spec.hash}; "
                "episodes of different specs never mix"
            )

    def tasks(self) -> Counter[str]:
        """Frames of each task."""
        counts: Counter[str] = Counter()
        for entry in self.episodes:
            counts[entry.task] += entry.count
        return counts


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
