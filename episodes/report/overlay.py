"""What two policies answer to the same pictures, side by side: one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import cv2
import numpy as np

from controllers.protocols import ActionDecodeError
from controllers.types import ActionChunk, ActionSpec, FloatArray, ImageArray, Observation
from episodes.episode import Episode
from vla.tokenizers import decoder_from_id

_MAX_ROWS = 200
_SIZE, _COLOURS = 160, ("#1f77b4", "#d62728")


class Overlay:
    """Collects observations with both answers, and writes them as a page."""

    def __init__(self, episode: Episode, policy: str) -> None:
        """Compare the recording with ``policy``."""
        manifest = episode.manifest
        self._decoder = decoder_from_id(manifest.tokenizer_id, ActionSpec.from_json(manifest.action_spec))
        self._title = f"{manifest.episode_id}: {manifest.policy.name} and {policy}"
        self._instruction = manifest.instruction
        self._rows: list[str] = []
        self._left_out = 0

    def add(self, observation: Observation, recorded: ActionChunk, inferred: ActionChunk) -> None:
        """Take one observation and its two answers."""
        if len(self._rows) >= _MAX_ROWS:
            self._left_out += 1
            return
        equal = float((recorded.tokens == inferred.tokens).mean())
        pictures = "".join(_picture(name, image) for name, image in observation.images.items())
        paths = [self._path(chunk) for chunk in (recorded, inferred)]
        views = _plot(paths, 0, 1, "x, y") + _plot(paths, 0, 2, "x, z")
        self._rows.append(
            f"<tr><td>{observation.stamp_ns / 1e9:.3f} s<br>chunk {recorded.chunk_id}<br>{equal:.0%} equal</td>"
            f"<td>{pictures}</td><td>{views}</td></tr>"
        )

    def _path(self, chunk: ActionChunk) -> FloatArray:
        """Cumulated first three action dimensions (rows + 1, 3); one row if it cannot be decoded."""
        try:
            actions = self._decoder.decode(chunk.tokens)[:, :3]
        except ActionDecodeError:
            return np.zeros((1, 3))
        return np.concatenate((np.zeros((1, actions.shape[1])), np.cumsum(actions, axis=0)))

    def write(self, path: Path) -> None:
        """Write the page."""
        note = f"<p>{self._left_out} more observations are left out.</p>" if self._left_out else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"<!doctype html><meta charset=utf-8><title>{html.escape(self._title)}</title>"
            "<style>body{font-family:sans-serif}td{vertical-align:top;padding:4px}</style>"
            f"<h1>{html.escape(self._title)}</h1><p>{html.escape(self._instruction)}. Paths of each chunk: "
            f"<b style='color:{_COLOURS[0]}'>recorded</b>, <b style='color:{_COLOURS[1]}'>inferred again</b>.</p>"
            f"<table>{''.join(self._rows)}</table>{note}",
            encoding="utf-8",
        )


def _picture(name: str, image: ImageArray) -> str:
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        return html.escape(f"{name}: not drawable")
    text = base64.b64encode(data.tobytes()).decode()
    return (
        f'<img alt="{html.escape(name)}" title="{html.escape(name)}" height={_SIZE} src="data:image/png;base64,{text}">'
    )


def _plot(paths: list[FloatArray], across: int, up: int, label: str) -> str:
    """Two paths in the plane of two action dimensions, to one scale."""
    reach = max(float(np.abs(path).max()) for path in paths) or 1.0
    half = _SIZE / 2
    lines = ""
    for path, colour in zip(paths, _COLOURS, strict=True):
        points = " ".join(
            f"{half + half * 0.9 * x / reach:.1f},{half - half * 0.9 * y / reach:.1f}"
            for x, y in zip(path[:, across].tolist(), path[:, up].tolist(), strict=True)
        )
        lines += f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>'
    return (
        f'<svg width={_SIZE} height={_SIZE} style="border:1px solid #ccc">{lines}'
        f'<text x="4" y="14" font-size="11">{label}, {reach * 1e3:.0f} mm</text></svg>'
    )
