"""Formats by name, and which one a path holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from controllers.names import unknown_name
from episodes.errors import EpisodeError
from episodes.exchange.csv_export import CsvExporter, CsvOptions
from episodes.exchange.lerobot_export import LerobotExporter, LerobotOptions
from episodes.exchange.lerobot_import import LerobotImporter, LerobotImportOptions
from episodes.exchange.mcap_export import McapExporter, McapOptions
from episodes.exchange.mcap_import import McapImporter
from episodes.exchange.mcap_options import McapImportOptions
from episodes.exchange.mp4_export import Mp4Exporter, Mp4Options
from episodes.exchange.protocols import Exporter, Importer
from episodes.exchange.rerun_export import RerunExporter, RerunOptions


@dataclass(frozen=True)
class ExportOptions:
    """Options of every target format; only those of the chosen one matter."""

    lerobot: LerobotOptions = field(default_factory=LerobotOptions)
    """LeRobotDataset v3."""
    mcap: McapOptions = field(default_factory=McapOptions)
    """ROS 2 bags."""
    rerun: RerunOptions = field(default_factory=RerunOptions)
    """rerun recordings."""
    mp4: Mp4Options = field(default_factory=Mp4Options)
    """Videos."""
    csv: CsvOptions = field(default_factory=CsvOptions)
    """Tables."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of every source format; only those of the chosen one matter."""

    lerobot: LerobotImportOptions = field(default_factory=LerobotImportOptions)
    """LeRobotDataset v3."""
    mcap: McapImportOptions = field(default_factory=McapImportOptions)
    """ROS 2 bags."""


EXPORTERS: Mapping[str, Callable[[ExportOptions], Exporter]] = {
    "lerobot": lambda options: LerobotExporter(options.lerobot),
    "mcap": lambda options: McapExporter(options.mcap),
    "rerun": lambda options: RerunExporter(options.rerun),
    "mp4": lambda options: Mp4Exporter(options.mp4),
    "csv": lambda options: CsvExporter(options.csv),
}
IMPORTERS: Mapping[str, Callable[[ImportOptions], Importer]] = {
    "lerobot": lambda options: LerobotImporter(options.lerobot),
    "mcap": lambda options: McapImporter(options.mcap),
}


def exporter(name: str, options: ExportOptions) -> Exporter:
    """The exporter of a format.

    Raises:
        ValueError: No such format; proposes the nearest.
    """
    if name not in EXPORTERS:
        raise ValueError(unknown_name("format", name, EXPORTERS))
    return EXPORTERS[name](options)


def importer(name: str, source: Path, options: ImportOptions) -> Importer:
    """The importer of a format, or of whatever ``source`` holds.

    Args:
        name: Format, empty to find out.
        source: What is to be read.
        options: Options of the formats.

    Raises:
        ValueError: No such format; proposes the nearest.
        EpisodeError: Nothing is there, or nothing that any importer reads.
    """
    if name and name not in IMPORTERS:
        raise ValueError(unknown_name("format", name, IMPORTERS))
    if not source.exists():
        raise EpisodeError(str(source), "a recording", "nothing", "check the path")
    if name:
        return IMPORTERS[name](options)
    for make in IMPORTERS.values():
        candidate = make(options)
        if candidate.reads(source):
            return candidate
    if (source / "zarr.json").is_file():
        raise EpisodeError(str(source), _EXPECTED, "an episode of this stack", "it needs no import")
    raise EpisodeError(str(source), _EXPECTED, _found(source), "give the format with --from if it is one of these")


_EXPECTED = "a LeRobotDataset v3 (meta/info.json), an MCAP file or a ROS 2 bag folder with MCAP storage"


def _found(source: Path) -> str:
    if source.is_dir():
        names = sorted(item.name for item in source.iterdir())
        return f"a folder with {', '.join(names[:5]) or 'nothing'}{' and more' if len(names) > 5 else ''}"
    return f"a file of {source.stat().st_size} bytes"
