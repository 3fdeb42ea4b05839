"""Policies by name. Light: torch is imported by the builder, in the process that builds."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controllers.protocols import Policy
from vla.process import PolicyFactory

DEFAULT_COMPACT_WEIGHTS = Path(__file__).parent / "weights" / "compact"


def build_compact(
    weights: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "bf16",
    decoding: str = "mean_around_mode",
    threads: int = 1,
) -> Policy:
    """Load the compact model.

    Args:
        weights: Policy folder; None for the one that comes with the package.
        device: ``cpu`` or ``cuda``.
        dtype: ``bf16`` or ``fp32``.
        decoding: ``mean_around_mode`` or ``mode``.
        threads: Torch threads of the process.
    """
    from vla.compact.policy import CompactPolicy, Decoding

    return CompactPolicy.load(weights or DEFAULT_COMPACT_WEIGHTS, device, dtype, Decoding(decoding), threads)


_BUILDERS: dict[str, Callable[..., Policy]] = {"compact": build_compact}


def policy_names() -> tuple[str, ...]:
    """Names that :func:`build_policy` knows."""
    return tuple(_BUILDERS)


def build_policy(name: str, **options: Any) -> Policy:
    """Build a policy in this process.

    Raises:
        ValueError: No such policy; names the nearest.
        TypeError: An option that its builder does not have.
    """
    return _builder(name)(**options)


def policy_factory(name: str, **options: Any) -> PolicyFactory:
    """Describe how to build a policy, for :class:`vla.process.PolicyProcess`.

    Raises:
        ValueError: No such policy; names the nearest.
    """
    builder = _builder(name)
    return PolicyFactory(f"{builder.__module__}:{builder.__name__}", options)


def _builder(name: str) -> Callable[..., Policy]:
    if name not in _BUILDERS:
        near = difflib.get_close_matches(name, _BUILDERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown policy {name!r}{hint} (known: {', '.join(_BUILDERS)})")
    return _BUILDERS[name]
