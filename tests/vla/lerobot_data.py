"""Small LeRobotDatasets v3, written with pyarrow alone: as our exporter writes them, and as others might."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from vla.training.zarr_source import read_array


@dataclass(frozen=True)
class Frames:
    """One episode: columns (n, ...), pictures (n, H, W, 3) by key, words."""

    columns: Mapping[str, np.ndarray]
    pictures: Mapping[str, np.ndarray]
    task: str


def write_dataset(
    root: Path, episodes: Sequence[Frames], fps: int, documents: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Write the files that a reader of the format needs."""
    tasks = sorted({episode.task for episode in episodes})
    tables, rows, start = [], [], 0
    for index, episode in enumerate(episodes):
        count = len(next(iter(episode.columns.values())))
        columns: dict[str, Any] = {name: values.tolist() for name, values in episode.columns.items()}
        for key, pictures in episode.pictures.items():
            encoded = [cv2.imencode(".png", picture[..., ::-1])[1].tobytes() for picture in pictures]
            columns[key] = [{"bytes": data, "path": None} for data in encoded]
        columns["timestamp"] = (np.arange(count) / fps).tolist()
        columns["episode_index"] = [index] * count
        columns["task_index"] = [tasks.index(episode.task)] * count
        tables.append(pa.table(columns))
        rows.append({"episode_index": index, "length": count, "data/chunk_index": 0, "data/file_index": 0})
        start += count
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / folder).mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    named = [{"task_index": number, "task": task} for number, task in enumerate(tasks)]
    pq.write_table(pa.Table.from_pylist(named), root / "meta/tasks.parquet")
    first = episodes[0]
    features = {name: {"dtype": "float32", "shape": list(v.shape[1:])} for name, v in first.columns.items()}
    features |= {name: {"dtype": "image", "shape": list(v.shape[1:])} for name, v in first.pictures.items()}
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    if documents:
        (root / "meta/vla_stack.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    return root


def as_exported(stores: Sequence[Path], root: Path) -> Path:
    """Toy episodes in the layout of `vla export --to lerobot`."""
    episodes, documents = [], []
    for path in stores:
        group = zarr.open_group(str(path), mode="r")
        manifest: Any = group.attrs["manifest"]
        columns = {
            f"vla.{name}": read_array(group, f"observations/{name}")
            for name in ("stamp_ns", "commanded_pose", "ee_pose", "gripper_opening", "wrench")
        }
        columns["vla.label_tokens"] = read_array(group, "labels/tokens")
        pictures = {}
        for camera in ("workspace", "wrist"):
            columns[f"vla.present.{camera}"] = read_array(group, f"observations/present/{camera}")
            pictures[f"observation.images.{camera}"] = read_array(group, f"observations/images/{camera}")
        episodes.append(Frames(columns, pictures, manifest["instruction"]))
        documents.append({"layout_version": 1, "name": path.name, "manifest": manifest})
    return write_dataset(root, episodes, 10, documents)
