"""How the commands tell what a format does not keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from cli.output import console
from episodes.exchange.losses import Loss


@dataclass(frozen=True, slots=True)
class LossRow:
    """One loss, as printed."""

    what: str
    kind: str
    why: str


def loss_rows(losses: Sequence[Loss]) -> tuple[LossRow, ...]:
    """The losses with their kinds as words."""
    return tuple(LossRow(loss.what, loss.kind.value, loss.why) for loss in losses)


def explain_losses(losses: Sequence[Loss]) -> None:
    """Print what was not kept."""
    if not losses:
        console.print("[green]nothing is lost[/]: importing it gives the same bits")
        return
    table = Table("not kept", "how", "why", title="what this format does not keep")
    for row in loss_rows(losses):
        table.add_row(row.what, row.kind, row.why)
    console.print(table)
