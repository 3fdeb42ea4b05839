"""The files of a LeRobotDataset v3, read with pyarrow alone: tables, words, pictures.

``episodes.exchange`` reads the same files into episodes; the model's side may not import it, and needs less.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from controllers.types import ImageArray
from vla.training.sources import LEROBOT_INFO, EpisodeError, decoded_picture

DOCUMENT_NAME = "vla_stack.jsonl"  # in meta/, one line an episode, in data sets that `vla export` wrote
_DOCUMENT_VERSION = 1
_VERSION = "v3."
_EXTRA = "pip install 'vla-stack[exchange]'"


class LerobotFiles:
    """One data set. What is read of one episode is small; a data file is kept until another is asked for."""

    def __init__(self, root: Path) -> None:
        """Read what the data set says of itself.

        Raises:
            EpisodeError: A file is missing or damaged, it is of another version, or pyarrow is not installed.
        """
        self.root = root
        info = self._json(root / LEROBOT_INFO)
        version = str(info.get("codebase_version"))
        if not version.startswith(_VERSION):
            raise EpisodeError(
                f"{root / LEROBOT_INFO}: expected codebase_version v3.0, found {version}; convert it: "
                "python -m lerobot.scripts.convert_dataset_v21_to_v30"
            )
        try:
            import pyarrow.parquet as parquet
        except ModuleNotFoundError as error:
            raise EpisodeError(f"{root}: expected the package pyarrow, found none; {_EXTRA}") from error
        self._parquet: Any = parquet
        self._info = info
        self._loaded: tuple[Path, Any] | None = None

    @property
    def fps(self) -> int:
        """Frames a second."""
        return int(self._info["fps"])

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> dtype, shape and names of each feature."""
        return self._info["features"]

    @cached_property
    def documents(self) -> tuple[Mapping[str, Any], ...]:
        """What ``vla export`` wrote beside, by episode; empty for a data set of other origin.

        Raises:
            EpisodeError: Another version of it, or another number of episodes.
        """
        path = self.root / "meta" / DOCUMENT_NAME
        if not path.is_file():
            return ()
        documents = tuple(json.loads(line) for line in path.read_text().splitlines())
        versions = {document.get("layout_version") for document in documents}
        if versions != {_DOCUMENT_VERSION}:
            raise EpisodeError(
                f"{path}: expected layout {_DOCUMENT_VERSION}, found {versions}; use the release that wrote it"
            )
        if len(documents) != len(self.episodes):
            raise EpisodeError(
                f"{path}: expected a line for each of {len(self.episodes)} episodes, found {len(documents)}; the data "
                "set was changed after it was exported: export it again"
            )
        return documents

    @cached_property
    def episodes(self) -> tuple[Mapping[str, Any], ...]:
        """One row for each episode, in order.

        Raises:
            EpisodeError: There are none.
        """
        files = sorted((self.root / "meta" / "episodes").glob("*/*.parquet"))
        rows: list[Mapping[str, Any]] = []
        for file in files:
            table = self._read(file)
            rows += table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
        if not rows:
            raise EpisodeError(
                f"{self.root}/meta/episodes: expected a table of episodes, found none; LeRobot's finalize() was not "
                "called"
            )
        return tuple(sorted(rows, key=lambda row: int(row["episode_index"])))

    @cached_property
    def _tasks(self) -> dict[int, str]:
        rows = self._read(self.root / "meta" / "tasks.parquet").to_pylist()
        named = [(row.get("task") or row.get("__index_level_0__"), int(row["task_index"])) for row in rows]
        return {index: str(task) for task, index in named}

    def table(self, index: int) -> Any:
        """The rows of one episode, a pyarrow table."""
        row = self.episodes[index]
        template = str(self._info["data_path"])
        file = self.root / template.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = (file, self._read(file))
        table = self._loaded[1]
        mine = np.flatnonzero(table["episode_index"].to_numpy() == int(row["episode_index"]))
        return table.slice(int(mine[0]), len(mine)) if len(mine) else table.slice(0, 0)

    def instruction(self, table: Any) -> str:
        """The words of an episode.

        Raises:
            EpisodeError: They change within it.
        """
        tasks = sorted({self._tasks[task] for task in table["task_index"].to_pylist()})
        if len(tasks) != 1:
            raise EpisodeError(
                f"{self.root}: expected one task an episode, found {tasks}; split the episodes where the words change"
            )
        return tasks[0]

    def column(self, table: Any, name: str) -> np.ndarray:
        """(n, ...) numbers of a column, whatever its nesting.

        Where the package ``datasets`` is loaded, pyarrow gives its arrays of two dimensions as extension types.

        Raises:
            EpisodeError: No such column.
        """
        if name not in table.column_names:
            raise EpisodeError(
                f"{self.root}: expected a column {name!r}, found {', '.join(table.column_names)}; correct the mapping"
            )
        column = table[name]
        if column.type.num_fields == 0 and not hasattr(column.type, "storage_type"):
            return column.to_numpy()
        chunks = (chunk.storage if hasattr(chunk, "storage") else chunk for chunk in column.chunks)
        return np.array([row for chunk in chunks for row in chunk.to_pylist()])

    def pictures(self, index: int, table: Any, key: str) -> Iterator[ImageArray]:
        """Every picture (H, W, 3) uint8 RGB of an episode.

        Raises:
            EpisodeError: No such feature, or a picture that cannot be read.
        """
        feature = self.features.get(key)
        if feature is None or feature["dtype"] not in ("image", "video"):
            have = [name for name, entry in self.features.items() if entry["dtype"] in ("image", "video")]
            raise EpisodeError(
                f"{self.root}: expected pictures under {key!r}, found pictures under {', '.join(have) or 'nothing'}; "
                "correct the mapping"
            )
        if feature["dtype"] == "video":
            yield from self._video(index, key)
            return
        for row in range(len(table)):
            cell = table[key][row].as_py()
            data = cell["bytes"] if cell["bytes"] is not None else (self.root / cell["path"]).read_bytes()
            picture = decoded_picture(np.frombuffer(data, np.uint8))
            if not picture.size:
                raise EpisodeError(f"{self.root}: {key}, frame {row}: expected a picture, found bytes that are none")
            yield picture

    def _video(self, index: int, key: str) -> Iterator[ImageArray]:
        try:
            import av
        except ModuleNotFoundError as error:
            raise EpisodeError(f"{self.root}: expected the package av for videos, found none; {_EXTRA}") from error
        row = self.episodes[index]
        file = self.root / str(self._info["video_path"]).format(
            video_key=key, chunk_index=row[f"videos/{key}/chunk_index"], file_index=row[f"videos/{key}/file_index"]
        )
        if not file.is_file():
            raise EpisodeError(f"{file}: expected a video, found none; the data set is incomplete")
        start, count, given = float(row[f"videos/{key}/from_timestamp"]), int(row["length"]), 0
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                if given == count:
                    return
                if frame.time is None or frame.time < start - 0.5 / self.fps:
                    continue
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                given += 1
        if given < count:
            raise EpisodeError(f"{file}: expected {count} frames from {start:.3f} s on, found {given}; it was cut")

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EpisodeError(f"{path}: expected JSON, found none that reads ({error})") from error

    def _read(self, file: Path) -> Any:
        try:
            return self._parquet.read_table(file)
        except Exception as error:  # pyarrow raises its own classes and OSError
            raise EpisodeError(f"{file}: expected a parquet file ({error}); the data set is incomplete") from error
