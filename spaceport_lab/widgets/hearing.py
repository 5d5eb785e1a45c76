"""Widgets that hear the page while a cell runs."""

from __future__ import annotations

from typing import Any

import ipywidgets


def hear_while_a_cell_runs(widget: ipywidgets.Widget) -> None:
    """Let what is pressed in this widget, or in one inside it, be heard by the kernel's subshell.

    JupyterLab sends a widget's messages to a subshell, a thread of the kernel that is free while a cell
    runs. ipykernel 7.4 hands them to the thread that the widget last wrote from instead: to the main one,
    which waits for training to end. Nothing here answers questions of one thread only, so that what
    JupyterLab asked for is right. Other versions do not look at what is set here.
    """
    comm = getattr(widget, "comm", None)
    if comm is not None:
        comm._reply_subshell_for = _as_sent
    for child in getattr(widget, "children", ()):
        hear_while_a_cell_runs(child)


def _as_sent(data: Any, subshell: str | None) -> str | None:
    return subshell
