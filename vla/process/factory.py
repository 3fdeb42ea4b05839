"""How a policy is built in another process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controllers.protocols import Policy


@dataclass(frozen=True)
class PolicyFactory:
    """How the child builds its policy: a function named as ``module:function`` and its arguments.

    Attributes:
        target: ``module:function``.
        arguments: Of the function.
        preload: Modules that are slow to import; the process that forks policies imports them once, so that a restart
            does not.
    """

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preload: tuple[str, ...] = ()

    def build(self) -> Policy:
        """Import the function and call it."""
        module, _, function = self.target.partition(":")
        if not function:
            raise ValueError(f"a policy factory is named 'module:function', found {self.target!r}")
        return getattr(importlib.import_module(module), function)(**self.arguments)
