"""LeRobotDataset v3 to episodes: read with pyarrow alone, so without LeRobot and torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from controllers.doubt import ChunkDoubt
from controllers.types import (
    ActionChunk,
    ChunkArrival,
    CommandMode,
    FloatArray,
    ImageArray,
    IntArray,
    Observation,
    RobotState,
    frozen_array,
)
from episodes.chunks import CERTAINTY, DOUBT
from episodes.errors import EpisodeError
from episodes.exchange.bag_file import decode_picture
from episodes.exchange.foreign import (
    JointCommands,
    JointReadings,
    Recording,
    foreign_manifest,
    pose,
    unknown,
    write_recording,
)
from episodes.exchange.lerobot_layout import (
    ACTION,
    DOCUMENT_NAME,
    EXACT,
    LAYOUT_VERSION,
    STATE,
    Array,
    image_key,
    present_key,
)
from episodes.exchange.protocols import Imported
from episodes.exchange.videos import video_frames
from episodes.extras import load
from episodes.jsontypes import JsonDict, as_list, as_mapping
from episodes.manifest import Manifest, Outcome
from episodes.provenance import Provenance

INFO = Path("meta/info.json")
EXTRA = "exchange"
_VERSION = "v3."
_IMAGE_PREFIX = image_key("")
_OURS_LACK = (
    "the ticks between observations, with their targets, commands and verdicts",
    "events",
    "physics and scene",
)


@dataclass(frozen=True)
class LerobotImportOptions:
    """How a data set becomes episodes."""

    episodes: tuple[int, ...] = ()
    """Indices of the episodes to read; none for all."""
    unit: Literal["rad", "deg"] = "rad"
    """Unit of joint angles in a data set of other origin."""
    gripper: str = "gripper"
    """Names in observation.state and action that contain this word are the gripper, in m."""


class LerobotImporter:
    """Reads LeRobotDataset v3."""

    def __init__(self, options: LerobotImportOptions | None = None) -> None:
        """Choose how."""
        self._options = options or LerobotImportOptions()

    def reads(self, source: Path) -> bool:
        """Whether there is a ``meta/info.json``."""
        return (source / INFO).is_file()

    def read(self, source: Path, out: Path) -> Imported:
        """One episode store for each episode of the data set."""
        dataset = _Dataset(source)
        written: list[Path] = []
        lacks: dict[str, None] = {}
        for index in self._options.episodes or range(dataset.count):
            name, recording = _recording(dataset, index, self._options)
            written.append(write_recording(out / name, recording))
            lacks.update(dict.fromkeys(recording.provenance.lacks))
        return Imported(tuple(written), False, tuple(lacks))


class _Dataset:
    """The files of one data set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / INFO).is_file():
            raise EpisodeError(str(root), f"a LeRobotDataset with {INFO}", "none", "check the path")
        self.info = as_mapping(json.loads((root / INFO).read_text()))
        version = str(self.info.get("codebase_version"))
        if not version.startswith(_VERSION):
            raise EpisodeError(
                f"{root / INFO}: codebase_version",
                "v3.0",
                version,
                "convert it: python -m lerobot.scripts.convert_dataset_v21_to_v30",
            )
        self._parquet = load("pyarrow.parquet", EXTRA)
        self._loaded: tuple[Path, Any] | None = None

    @cached_property
    def count(self) -> int:
        return len(self.episodes)

    @property
    def fps(self) -> int:
        return int(cast(int, self.info["fps"]))

    @property
    def features(self) -> Mapping[str, JsonDict]:
        return {name: as_mapping(value) for name, value in as_mapping(self.info["features"]).items()}

    def names(self, feature: str) -> list[str]:
        """Names of a feature's components."""
        found = self.features[feature].get("names")
        if isinstance(found, dict):  # some data sets give them by motor: {"motors": [...]}
            found = next(iter(cast(dict[str, object], found).values()), None)
        names = as_list(found)
        shape = as_list(self.features[feature]["shape"]) or [0]
        size = int(cast(int, shape[0]))
        return [str(name) for name in names] if names else [f"{feature}_{index}" for index in range(size)]

    @cached_property
    def episodes(self) -> list[dict[str, Any]]:
        files = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        rows = [row for file in files for row in self._rows(file)]
        if not rows:
            raise EpisodeError(
                f"{self.root}/meta/episodes", "a table of episodes", "none", "LeRobot's finalize() was not called"
            )
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    def _rows(self, file: Path) -> list[dict[str, Any]]:
        table = self._read(file)
        wanted = [name for name in table.column_names if not name.startswith("stats/")]
        return cast(list[dict[str, Any]], table.select(wanted).to_pylist())

    def _read(self, file: Path) -> Any:
        try:
            return self._parquet.read_table(file)
        except Exception as error:  # pyarrow raises its own classes and OSError
            raise EpisodeError(str(file), "a parquet file", str(error), "the data set is incomplete") from error

    @cached_property
    def tasks(self) -> dict[int, str]:
        rows = self._read(self.root / "meta" / "tasks.parquet").to_pylist()
        named = [(row.get("task") or row.get("__index_level_0__"), int(row["task_index"])) for row in rows]
        return {index: str(task) for task, index in named}

    @cached_property
    def documents(self) -> list[JsonDict]:
        """What our exporter wrote beside, by episode; empty for a data set of other origin."""
        path = self.root / "meta" / DOCUMENT_NAME
        if not path.is_file():
            return []
        documents = [as_mapping(json.loads(line)) for line in path.read_text().splitlines()]
        versions = {document.get("layout_version") for document in documents}
        if versions - {LAYOUT_VERSION}:
            raise EpisodeError(str(path), f"layout {LAYOUT_VERSION}", str(versions), "use the release that wrote it")
        return documents

    def table(self, index: int) -> Any:
        """Rows of one episode."""
        row = self.episode(index)
        template = str(self.info["data_path"])
        file = self.root / template.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = (file, self._read(file))
        table = self._loaded[1]
        mine = np.flatnonzero(table["episode_index"].to_numpy() == int(row["episode_index"]))
        return table.slice(int(mine[0]), len(mine)) if len(mine) else table.slice(0, 0)

    def episode(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise EpisodeError(
                str(self.root),
                f"episodes 0 to {self.count - 1}",
                str(index),
                "choose with --lerobot.episodes",
            )
        return self.episodes[index]

    def video(self, key: str, index: int) -> Iterator[ImageArray]:
        """Frames of a video feature."""
        row = self.episode(index)
        file = self.root / str(self.info["video_path"]).format(
            video_key=key, chunk_index=row[f"videos/{key}/chunk_index"], file_index=row[f"videos/{key}/file_index"]
        )
        start = float(row[f"videos/{key}/from_timestamp"])
        yield from video_frames(file, start, int(row["length"]), self.fps)


def _column(table: Any, name: str) -> Array:
    """(N, ...) numbers of a column, whatever its nesting.

    Where the package ``datasets`` is loaded, pyarrow gives its arrays of more than one dimension as extension types.
    """
    column = table[name]
    if column.type.num_fields == 0 and not hasattr(column.type, "storage_type"):
        return column.to_numpy()
    chunks = (chunk.storage if hasattr(chunk, "storage") else chunk for chunk in column.chunks)
    return np.array([row for chunk in chunks for row in chunk.to_pylist()])


# ------------------------------------------------------------------------------------------- recordings


def _recording(dataset: _Dataset, index: int, options: LerobotImportOptions) -> tuple[str, Recording]:
    table = dataset.table(index)
    if dataset.documents:
        return _ours(dataset, index, table)
    return _theirs(dataset, index, table, options)


def _ours(dataset: _Dataset, index: int, table: Any) -> tuple[str, Recording]:
    """A data set that our exporter wrote: exact values from our own keys."""
    document = dataset.documents[index]
    original = Manifest.from_json(as_mapping(document["manifest"]), f"{dataset.root}: manifest")
    exact = {name: _column(table, name) for name in table.column_names if name.startswith(EXACT)}
    stamps = exact[f"{EXACT}stamp_ns"].astype(np.int64)
    count = len(stamps)

    def values(name: str) -> FloatArray:
        return exact[f"{EXACT}{name}"].astype(np.float64)

    joints = JointReadings(
        stamp_ns=stamps,
        arrival_ns=stamps,
        position=values("joint_position").reshape(count, -1),
        velocity=values("joint_velocity").reshape(count, -1),
        effort=values("joint_effort").reshape(count, -1),
        ee_pose=values("ee_pose"),
        wrench=values("wrench"),
        gripper=values("gripper_opening"),
        reference=values("commanded_pose"),
    )
    names = tuple(dataset.names(STATE)[:-1])
    cameras = [str(name) for name in as_list(document.get("cameras")) or []]
    present = {camera: exact[present_key(camera)].astype(bool) for camera in cameras}
    manifest = replace(original, stack={}, control_rate_hz=dataset.fps, model_xml_sha256="", realtime=True)
    lossy = tuple(
        f"the pictures of {camera} as the policy saw them: they went through a lossy video"
        for camera in cameras
        if dataset.features[image_key(camera)]["dtype"] == "video"
    )
    return str(document["name"]), Recording(
        manifest=manifest,
        provenance=Provenance("lerobot", dataset.root.name, names, (*_OURS_LACK, *lossy)),
        joints=joints,
        commands=None,
        observations=_observations(dataset, index, table, joints, {c: (image_key(c), present[c]) for c in cameras}),
        chunks=_chunks(exact, document, stamps),
        labels=_labels(exact, stamps),
    )


def _chunks(
    exact: Mapping[str, Array], document: JsonDict, stamps: IntArray
) -> Mapping[int, Sequence[tuple[ChunkArrival, bool]]]:
    tokenizers = [str(name) for name in as_list(document.get("tokenizer_ids")) or []]
    specs = [str(name) for name in as_list(document.get("spec_hashes")) or []]
    ids = exact[f"{EXACT}chunk_id"]
    found: dict[int, list[tuple[ChunkArrival, bool]]] = {}
    for index in np.flatnonzero(ids >= 0).tolist():
        tokens = exact[f"{EXACT}tokens"][index].astype(np.int64)
        tokens.flags.writeable = False
        tokenizer = tokenizers[int(exact[f"{EXACT}tokenizer_id"][index])]
        spec = specs[int(exact[f"{EXACT}spec_hash"][index])]
        likelihood, spread = (_known(exact.get(f"{EXACT}{name}"), index) for name in CERTAINTY)
        chunk = ActionChunk(
            tokens,
            tokenizer,
            spec,
            int(stamps[index]),
            int(ids[index]),
            int(exact[f"{EXACT}forced_rows"][index]),
            likelihood,
            spread,
            _doubt(exact, index),
        )
        inference, inferred = (int(exact[f"{EXACT}{name}"][index]) for name in ("inference_ns", "inferred_ns"))
        arrival = ChunkArrival(chunk, inference, inferred)
        found.setdefault(index, []).append((arrival, bool(exact[f"{EXACT}accepted"][index])))
    return found


def _known(values: Array | None, index: int) -> FloatArray | None:
    """One entry of a column, None where the column is missing or says nothing."""
    return None if values is None or np.isnan(values[index]).all() else frozen_array(values[index])


def _doubt(exact: Mapping[str, Array], index: int) -> ChunkDoubt | None:
    columns = [exact.get(f"{EXACT}doubt_{name}") for name in DOUBT]
    numbers = [math.nan if column is None else float(column[index]) for column in columns]
    if math.isnan(numbers[0]):
        return None
    mean, smallest, entropy, agreement = numbers
    return ChunkDoubt(
        mean, smallest, None if math.isnan(entropy) else entropy, None if math.isnan(agreement) else agreement
    )


def _labels(exact: Mapping[str, Array], stamps: IntArray) -> list[tuple[int, IntArray]]:
    tokens = exact.get(f"{EXACT}label_tokens")
    if tokens is None:
        return []
    given = np.flatnonzero((tokens >= 0).all(axis=(1, 2))).tolist()
    return [(int(stamps[index]), tokens[index].astype(np.int64)) for index in given]


def _theirs(dataset: _Dataset, index: int, table: Any, options: LerobotImportOptions) -> tuple[str, Recording]:
    """A data set of other origin: joints from ``observation.state``, commands from ``action`` where names agree."""
    if STATE not in table.column_names:
        raise EpisodeError(
            str(dataset.root), f"a feature {STATE}", f"only {', '.join(dataset.features)}", "a tick is a joint reading"
        )
    names = dataset.names(STATE)
    arm = [place for place, name in enumerate(names) if options.gripper not in name]
    grip = [place for place, name in enumerate(names) if options.gripper in name]
    factor = np.pi / 180.0 if options.unit == "deg" else 1.0
    state = _column(table, STATE).astype(np.float64).reshape(len(table), -1)
    stamps = np.round(_column(table, "timestamp").astype(np.float64) * 1e9).astype(np.int64)
    count, n = len(stamps), len(arm)
    joints = JointReadings(
        stamp_ns=stamps,
        arrival_ns=stamps,
        position=state[:, arm] * factor,
        velocity=unknown(count, n),
        effort=unknown(count, n),
        ee_pose=unknown(count, 7),
        wrench=unknown(count, 6),
        gripper=state[:, grip[0]] if grip else unknown(count),
        reference=unknown(count, 7),
    )
    commands = None
    lacks = ["true time stamps: LeRobot's are frame_index / fps", "velocities, efforts, wrench and poses", "tokens"]
    if ACTION in table.column_names and dataset.names(ACTION) == names:
        action = _column(table, ACTION).astype(np.float64).reshape(count, -1)
        commands = JointCommands(
            mode=CommandMode.POSITION,
            values=action[:, arm] * factor,
            gripper=action[:, grip[0]] if grip else unknown(count),
            stamp_ns=stamps,
        )
    else:
        lacks.append("joint commands: its actions are not named like its joints")
    lacks.append("physics and scene")
    cameras = {key.removeprefix(_IMAGE_PREFIX): key for key in dataset.features if key.startswith(_IMAGE_PREFIX)}
    everywhere = np.ones(count, bool)
    name = f"{dataset.root.name}-{index:06d}"
    robot = str(dataset.info.get("robot_type") or "unknown")
    task = dataset.tasks[int(table["task_index"][0].as_py())] if count else ""
    manifest = foreign_manifest(name, robot, [names[place] for place in arm], dataset.fps, task)
    return f"{name}.zarr", Recording(
        manifest=replace(manifest, outcome=Outcome(_success(table), "imported")),
        provenance=Provenance("lerobot", dataset.root.name, tuple(names[place] for place in arm), tuple(lacks)),
        joints=joints,
        commands=commands,
        observations=_observations(
            dataset, index, table, joints, {camera: (key, everywhere) for camera, key in cameras.items()}
        ),
        chunks={},
    )


def _success(table: Any) -> bool | None:
    if "next.success" not in table.column_names:
        return None
    return bool(np.any(_column(table, "next.success")))


def _observations(
    dataset: _Dataset, index: int, table: Any, joints: JointReadings, cameras: Mapping[str, tuple[str, Array]]
) -> Iterator[Observation]:
    tasks = [dataset.tasks[task] for task in cast(list[int], table["task_index"].to_pylist())]
    pictures = {camera: _pictures(dataset, index, table, key) for camera, (key, _) in cameras.items()}
    for row, instruction in enumerate(tasks):
        state: RobotState = joints.state(row)
        images = {camera: next(frames) for camera, frames in pictures.items()}
        seen = {camera: image for camera, image in images.items() if cameras[camera][1][row]}
        yield Observation(seen, state, pose(joints.reference[row]), instruction, state.stamp_ns)


def _pictures(dataset: _Dataset, index: int, table: Any, key: str) -> Iterator[ImageArray]:
    if dataset.features[key]["dtype"] == "video":
        yield from dataset.video(key, index)
        return
    for row in range(len(table)):
        cell = table[key][row].as_py()
        data = cell["bytes"] if cell["bytes"] is not None else (dataset.root / cell["path"]).read_bytes()
        yield decode_picture(data, f"{dataset.root}: {key}, frame {row}")
