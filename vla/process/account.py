"""What crossing the boundary from continuous actions to tokens cost; it travels with every answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class BoundaryAccount:
    """Sums since the policy was built. Per dimension, in the units of the action spec.

    Attributes:
        names: Names of the dimensions.
        units: Their units.
        bound: Largest rounding error that the tokenizer allows for values that it covers.
        chunks: Chunks written as tokens.
        refused: Chunks refused: nothing of them moved the arm.
        values: Values that were looked at in each dimension, refused chunks included.
        outside: How many of them lay outside what the tokenizer covers and the spec allows.
        saturated: Whether those were brought to the nearest end of the range, as the mapping declares; otherwise their
            chunks were refused.
        largest_error: Largest rounding error of the values that lay inside.
        mean_error: Mean of the same.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    bound: tuple[float, ...]
    chunks: int = 0
    refused: int = 0
    values: int = 0
    outside: tuple[int, ...] = ()
    saturated: bool = False
    largest_error: tuple[float, ...] = ()
    mean_error: tuple[float, ...] = ()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> BoundaryAccount:
        """Rebuild from ``dataclasses.asdict`` that went through JSON.

        Raises:
            TypeError: Other fields than these, or fields of other types.
        """
        values: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in data.items()}
        account = BoundaryAccount(**values)
        numbers = (*account.bound, *account.outside, *account.largest_error, *account.mean_error)
        counts = (account.chunks, account.refused, account.values)
        if not all(isinstance(item, (int, float)) for item in (*numbers, *counts)):
            raise TypeError(f"expected numbers, found {data!r:.200}")
        return account

    def lines(self) -> list[str]:
        """For people: rounding by dimension, then what lay outside."""
        lines = [f"continuous actions as tokens: {self.chunks} chunks written, {self.refused} refused"]
        if self.chunks:
            lines += [
                f"  {name}: rounded by at most {worst:.3g} {unit}, {mean:.3g} on average ({most:.3g} is the bound)"
                for name, unit, worst, mean, most in zip(
                    self.names, self.units, self.largest_error, self.mean_error, self.bound, strict=True
                )
            ]
        where = [f"{name} {count}" for name, count in zip(self.names, self.outside, strict=False) if count]
        if where:
            done = "brought to the end of the range, as declared" if self.saturated else "their chunks were refused"
            lines.append(f"  outside the range, of {self.values} values each: {', '.join(where)}; {done}")
        return lines


@runtime_checkable
class Accounting(Protocol):
    """A policy that discretizes, and says what it cost."""

    @property
    def account(self) -> BoundaryAccount:
        """So far."""
        ...
