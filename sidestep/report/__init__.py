"""report.html: one page about a finished run, with nothing outside of it; and its loss curve as a picture."""
