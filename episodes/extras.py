"""Optional packages, imported when they are needed; a missing one names the extra that installs it."""

from __future__ import annotations

import importlib
from typing import Any

from episodes.errors import EpisodeError


def load(module: str, extra: str) -> Any:
    """Import ``module``.

    Args:
        module: Dotted name, e.g. ``"mcap.writer"``.
        extra: The optional dependency group of this project that brings it.

    Raises:
        EpisodeError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error.name or module, extra) from error


def missing(module: str, extra: str) -> EpisodeError:
    """The error for a package that is not there."""
    package = module.partition(".")[0]
    return EpisodeError(
        f"package {package}", "an installed one", "none", f"install the extra: pip install 'vla-stack[{extra}]'"
    )
