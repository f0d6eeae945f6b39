"""A run, told to people: an HTML page, a terminal, a picture."""

from journeyman.report.html import write_report
from journeyman.report.picture import draw_run
from journeyman.report.stories import find_trajectories
from journeyman.report.terminal import render_summary, render_trace

__all__ = ["draw_run", "find_trajectories", "render_summary", "render_trace", "write_report"]
