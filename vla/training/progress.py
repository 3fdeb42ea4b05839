"""The progress bar of a training run."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def training_progress(console: Console) -> Progress:
    """A bar whose tasks say how it goes in their field ``info``."""
    return Progress(
        BarColumn(),
        TextColumn("{task.fields[info]}"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=1,
    )
