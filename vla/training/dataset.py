"""Recorded episodes packed for fast random access.

Episodes are zarr stores, one each. The cache beside them holds every labelled frame of every episode in two flat
files that are memory-mapped, and one line of JSON for each episode. A line is written after its frames are on
disk, so an interrupted update loses at most one episode, and an update only reads what is new.

Beside an episode there may be ``NAME.others.npz``: labels for other instructions at the same observations
(``sim.other_goals`` writes it). They become further episodes that share the pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zarr

from controllers.types import ActionSpec
from vla.compact.preprocess import PROPRIOCEPTION_DIMS, proprioception
from vla.tokenizers import COMPACT_TOKENIZER

CAMERAS = ("workspace", "wrist")
OTHERS_SUFFIX = ".others.npz"


class EpisodeError(ValueError):
    """An episode that cannot be trained on; the message says which and why."""


@dataclass(frozen=True)
class Source:
    """A folder of episodes.

    Attributes:
        path: Folder that is searched for ``*.zarr`` at any depth.
        weight: How often its frames are drawn, relative to other sources.
        successes_only: Leave out episodes that did not succeed (recorded experts); relabelled rollouts keep all.
    """

    path: Path
    weight: float = 1.0
    successes_only: bool = True


@dataclass(frozen=True)
class EpisodeEntry:
    """One line of the cache's index.

    Attributes:
        path: Absolute path of the store.
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

    def __init__(self, folder: Path, image_size: int = 128, horizon: int = 8, dims: int = 7) -> None:
        """Open or create a cache, and drop what an interrupted update left behind."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._image_shape = (len(CAMERAS), image_size, image_size, 3)
        self._image_bytes = int(np.prod(self._image_shape))
        self._frame_type = np.dtype(
            [
                ("state", "<f4", (PROPRIOCEPTION_DIMS,)),
                ("goal", "<f4", (3,)),
                ("tokens", "<i2", (horizon, dims)),
                ("episode", "<i4"),
                ("image", "<i4"),
            ]
        )
        self.episodes: list[EpisodeEntry] = []
        self.spec: ActionSpec | None = None
        self._load()

    @property
    def _index(self) -> Path:
        return self._folder / "episodes.jsonl"

    def _load(self) -> None:
        layout = {"image_shape": list(self._image_shape), "frame_bytes": self._frame_type.itemsize}
        header = self._folder / "cache.json"
        if header.exists():
            found = json.loads(header.read_text())
            if found["layout"] != layout:
                raise ValueError(
                    f"the cache {self._folder} has another layout: expected {layout}, found {found['layout']}"
                )
            self.spec = ActionSpec.from_json(found["spec"]) if found["spec"] else None
        else:
            header.write_text(json.dumps({"layout": layout, "spec": None}))
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
        """Pack the episodes that are new in the sources' folders.

        Raises:
            EpisodeError: An episode is malformed, or its action spec or tokenizer differs from the others'.
        """
        known = {entry.path for entry in self.episodes}
        shared = {entry.path for entry in self.episodes if entry.other}
        added, seen, waiting = 0, 0, []
        for path in _stores(sources):
            if str(path) in known:
                seen += 1
                continue
            reason = self._add(path)
            if reason:
                waiting.append((str(path), reason))
            else:
                added += 1
        self._map()
        for entry in tuple(self.episodes):
            if entry.other == 0 and entry.path not in shared:
                self._add_others(entry)
        self._map()
        return UpdateReport(added, seen, tuple(waiting))

    def _add(self, path: Path) -> str:
        """Pack one store; a reason if it is not finished yet."""
        try:
            group = zarr.open_group(str(path), mode="r")
        except (FileNotFoundError, ValueError, KeyError) as error:
            return f"cannot be opened: {error}"
        manifest: Any = group.attrs.get("manifest")
        if not isinstance(manifest, dict) or not manifest.get("closed"):
            return "not closed yet"
        if "labels" not in group or "observations" not in group:
            return "no labels yet"
        self._check_contract(path, manifest)
        images, frames, skipped = self._read(path, group, _succeeded(manifest))
        if not len(frames):
            return "no labelled observation"
        frames["episode"] = len(self.episodes)
        frames["image"] = self._pictures + np.arange(len(frames))
        entry = EpisodeEntry(
            path=str(path),
            start=self.count,
            count=len(frames),
            instruction=str(manifest["instruction"]),
            task=str(manifest["task"]),
            seed=int(manifest["seed"]),
            success=_succeeded(manifest),
            skipped=skipped,
        )
        _append(self._folder / "images.u8", images.tobytes())
        _append(self._folder / "frames.bin", frames.tobytes())
        _append(self._index, (json.dumps(asdict(entry)) + "\n").encode())
        self.episodes.append(entry)
        return ""

    def _add_others(self, entry: EpisodeEntry) -> None:
        """Pack the labels of other instructions beside a packed episode, if there are any."""
        path = Path(entry.path)
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

    def _check_contract(self, path: Path, manifest: dict[str, Any]) -> None:
        tokenizer = manifest.get("tokenizer_id")
        if tokenizer != COMPACT_TOKENIZER.tokenizer_id:
            raise EpisodeError(f"{path}: expected tokenizer {COMPACT_TOKENIZER.tokenizer_id!r}, found {tokenizer!r}")
        spec = ActionSpec.from_json(manifest["action_spec"])
        if self.spec is None:
            self.spec = spec
            header = self._folder / "cache.json"
            data = json.loads(header.read_text())
            header.write_text(json.dumps({**data, "spec": spec.to_json()}))
        elif spec.hash != self.spec.hash:
            raise EpisodeError(
                f"{path}: expected action spec {self.spec.hash}, found {spec.hash}; "
                "episodes of different specs never mix"
            )

    def _read(self, path: Path, group: zarr.Group, success: bool) -> tuple[np.ndarray, np.ndarray, int]:
        def read(name: str) -> np.ndarray:
            if name not in group:
                raise EpisodeError(f"{path}: no array {name!r}")
            return read_array(group, name)

        stamps, label_stamps = read("observations/stamp_ns"), read("labels/stamp_ns")
        _, rows, labels = np.intersect1d(stamps, label_stamps, return_indices=True)
        seen = np.all([read(f"observations/present/{name}")[rows] for name in CAMERAS], axis=0)
        rows, labels = rows[seen], labels[seen]
        tokens = read("labels/tokens")
        expected = self._frame_type["tokens"].shape
        if tokens.shape[1:] != expected:
            raise EpisodeError(f"{path}: expected label chunks of shape {expected}, found {tokens.shape[1:]}")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= COMPACT_TOKENIZER.bins):
            raise EpisodeError(f"{path}: label tokens outside 0..{COMPACT_TOKENIZER.bins - 1}")
        frames = np.zeros(len(rows), self._frame_type)
        frames["tokens"] = tokens[labels]
        frames["state"] = proprioception(
            *(read(f"observations/{name}")[rows] for name in ("commanded_pose", "ee_pose", "gripper_opening", "wrench"))
        )
        frames["goal"] = way_to_next_grip(frames["state"][:, :3], frames["tokens"])
        if not success:
            frames["goal"] = np.nan
        if not np.isfinite(frames["state"]).all():
            raise EpisodeError(f"{path}: non-finite proprioception")
        cameras = [_pictures(read(f"observations/images/{name}")[rows]) for name in CAMERAS]
        for name, images in zip(CAMERAS, cameras, strict=True):
            if images.shape[1:] != self._image_shape[1:] or images.dtype != np.uint8:
                raise EpisodeError(
                    f"{path}: camera {name!r}: expected {self._image_shape[1:]} uint8, "
                    f"found {images.shape[1:]} {images.dtype}"
                )
        return np.stack(cameras, axis=1), frames, len(stamps) - len(rows)

    def tasks(self) -> Counter[str]:
        """Frames of each task."""
        counts: Counter[str] = Counter()
        for entry in self.episodes:
            counts[entry.task] += entry.count
        return counts


def _pictures(kept: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 RGB as an episode keeps them: as they are, or as (N, bytes) of JPEGs."""
    if kept.ndim != 2 or not len(kept):
        return kept
    decoded = [cv2.imdecode(row, cv2.IMREAD_COLOR) for row in kept]
    return np.stack([np.zeros((0, 0, 3), np.uint8) if item is None else item[..., ::-1] for item in decoded])


def read_array(group: zarr.Group, name: str) -> np.ndarray:
    """All of one array of a group."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name!r} is not an array")
    return np.asarray(array[...])


def way_to_next_grip(positions: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """For each frame the (3,) way m from its position to where the gripper next opens or closes, or the end.

    Args:
        positions: (n, 3) m, in order of time.
        tokens: (n, horizon, dims) labels; the last dimension is the gripper.
    """
    middle = (int(tokens[..., -1].min()) + int(tokens[..., -1].max())) / 2 if len(tokens) else 0
    opened = tokens[:, 0, -1] > middle
    goals, goal = np.empty_like(positions), positions[-1:] if len(positions) else positions
    for i in range(len(positions) - 1, -1, -1):
        if i + 1 < len(positions) and opened[i] != opened[i + 1]:
            goal = positions[i + 1 : i + 2]
        goals[i] = goal - positions[i]
    return goals


def _succeeded(manifest: dict[str, Any]) -> bool:
    outcome = manifest.get("outcome")
    return isinstance(outcome, dict) and outcome.get("success") is True


def _stores(sources: Sequence[Source]) -> Iterator[Path]:
    for source in sources:
        if not source.path.is_dir():
            raise FileNotFoundError(f"no folder of episodes at {source.path}")
        yield from sorted(path.resolve() for path in source.path.rglob("*.zarr"))


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class Split:
    """Which frames train, how often, and which are held out.

    Attributes:
        train: (n,) frame numbers.
        cumulative: (n,) cumulative drawing probability of ``train``.
        held_out: (m,) frame numbers of episodes that never train.
        episodes: Number of training episodes.
        held_out_episodes: Number of held-out episodes.
    """

    train: np.ndarray
    cumulative: np.ndarray
    held_out: np.ndarray
    episodes: int
    held_out_episodes: int


def split_dataset(
    data: PackedDataset,
    sources: Sequence[Source],
    task_weights: dict[str, float],
    held_out_fraction: float,
    balance_tasks: bool,
    others_weight: float = 0.5,
) -> Split:
    """Choose frames and their drawing weights. Deterministic, and stable as episodes are added.

    An episode is held out by its seed and task, so that scenes which are held out once stay so in later rounds,
    in every source.
    """
    unknown = set(task_weights) - set(data.tasks())
    if unknown:
        raise ValueError(f"weights for unknown tasks {sorted(unknown)}; tasks: {sorted(data.tasks())}")
    frames, weights, tasks, held, episodes, held_episodes = [], [], [], [], 0, 0
    for entry in data.episodes:
        source = _source_of(entry, sources)
        if source is None or (source.successes_only and not entry.success):
            continue
        numbers = np.arange(entry.start, entry.start + entry.count)
        if _is_held_out(entry, held_out_fraction):
            if entry.other == 0:
                held.append(numbers)
                held_episodes += 1
            continue
        episodes += entry.other == 0
        frames.append(numbers)
        kind = others_weight if entry.other else 1.0
        weights.append(np.full(entry.count, kind * source.weight * task_weights.get(entry.task, 1.0)))
        tasks.extend([entry.task] * entry.count)
    if not frames:
        raise ValueError("no episode to train on: check the sources and whether their episodes succeeded")
    weight = np.concatenate(weights)
    if balance_tasks:
        names, number = np.unique(tasks, return_inverse=True)
        share = np.bincount(number, minlength=len(names))
        weight = weight / share[number]
    cumulative = np.cumsum(weight)
    return Split(
        train=np.concatenate(frames),
        cumulative=cumulative / cumulative[-1],
        held_out=np.concatenate(held) if held else np.zeros(0, np.int64),
        episodes=episodes,
        held_out_episodes=held_episodes,
    )


def _source_of(entry: EpisodeEntry, sources: Sequence[Source]) -> Source | None:
    """The source with the longest path that holds the episode."""
    path = Path(entry.path)
    holding = [source for source in sources if path.is_relative_to(source.path.resolve())]
    return max(holding, key=lambda source: len(source.path.resolve().parts), default=None)


def _is_held_out(entry: EpisodeEntry, fraction: float) -> bool:
    digest = hashlib.sha256(f"{entry.task}/{entry.seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32
