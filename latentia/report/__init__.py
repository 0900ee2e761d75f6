"""The report: one HTML file that says what a run has found."""

from latentia.report.page import build

__all__ = ["build"]
