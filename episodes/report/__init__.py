"""Reports: one self-contained HTML file about an evaluation."""

from episodes.report.page import write_report

__all__ = ["write_report"]
