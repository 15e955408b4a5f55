"""report.html: one page about a finished run, with nothing outside of it."""

from sidestep.report.page import FILE, write_report

__all__ = ["FILE", "write_report"]
