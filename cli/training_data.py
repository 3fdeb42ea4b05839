"""What `vla train` is told of its data, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vla.openvla.tuning.options import GeneralSource
    from vla.training.sources import Source


def read_sources(data: tuple[str, ...], successes_only: bool, mappings: Mapping[Path, str]) -> tuple[Source, ...]:
    """Sources from ``PATH``, ``PATH:WEIGHT`` or ``PATH:SHARE%``.

    Args:
        data: One text a source.
        successes_only: Leave out episodes that failed.
        mappings: Of LeRobotDatasets, see :func:`read_mappings`.

    Raises:
        ValueError: Something else, or no such folder.
    """
    from vla.foreign.declaration import load_declaration
    from vla.training.sources import Source

    sources = []
    for item in data:
        path, weight, share = _split(item)
        if not path.is_dir():
            raise ValueError(
                f"expected a folder of episodes or a LeRobotDataset, found nothing at '{path}'; `vla collect` makes one"
            )
        name = mappings.get(path.resolve())
        declaration = None if name is None else load_declaration(name)
        sources.append(Source(path, weight, successes_only, share, declaration))
    return tuple(sources)


def read_mappings(texts: tuple[str, ...], data: tuple[str, ...]) -> dict[Path, str]:
    """Resolved path of a data set -> its mapping, from ``DATASET=MAPPING``.

    Raises:
        ValueError: Something else, or a data set that is not among the data.
    """
    known = {_split(item)[0].resolve() for item in data}
    found = {}
    for text in texts:
        name, separator, mapping = text.rpartition("=")
        if not separator or not mapping:
            raise ValueError(f"--data-mapping: expected DATASET=MAPPING, found {text!r}")
        path = Path(name).resolve()
        if path not in known:
            raise ValueError(
                f"--data-mapping: expected one of the paths given with --data, found {name!r}; they are "
                f"{', '.join(sorted(str(_split(item)[0]) for item in data))}"
            )
        found[path] = mapping
    return found


def read_general(texts: tuple[str, ...]) -> tuple[GeneralSource, ...]:
    """General data from ``PATH:SHARE%``.

    Raises:
        ValueError: Something else.
    """
    from vla.openvla.tuning.options import GeneralSource

    sources = []
    for text in texts:
        path, _, share = _split(text)
        if share is None:
            raise ValueError(f"--general: expected PATH:SHARE%, e.g. pairs:20%, found {text!r}")
        sources.append(GeneralSource(path, share))
    return tuple(sources)


def read_task_weights(text: str) -> dict[str, float]:
    """Task -> drawing weight, from ``NAME=WEIGHT`` separated by commas.

    Raises:
        ValueError: Something else.
    """
    weights = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = item.partition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(f"expected NAME=WEIGHT, found {item!r}") from None
    return weights


def _split(item: str) -> tuple[Path, float, float | None]:
    """Path, weight and share."""
    path, separator, number = item.rpartition(":")
    if not separator:
        return Path(item), 1.0, None
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not path or not math.isfinite(value):
        raise ValueError(f"expected PATH, PATH:WEIGHT or PATH:SHARE%, found {item!r}")
    return (Path(path), 1.0, value / 100.0) if number.endswith("%") else (Path(path), value, None)
