"""The bench's own widgets: a line chart, the histogram of gradients, a held-out view. Python's side of each.

What changes goes out in one message a widget, numbers as float32 bytes, and only when it is not what the
page has already.
"""

from __future__ import annotations

from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import traitlets as t

from spaceport_lab.widgets.drawing import Drawing
from spaceport_lab.widgets.records import Gradients

_HERE = Path(__file__).parent
_CSS = (_HERE / "bench.css").read_text(encoding="utf-8")
HEIGHT = 196
"""Of a chart, CSS pixels."""


def _script(*names: str) -> str:
    """One JavaScript module out of several files: a widget's code cannot import what lies beside it."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


class _Widget(anywidget.AnyWidget):
    """With a layout that lets a grid make it as narrow as it likes."""

    height = t.Int(HEIGHT).tag(sync=True)

    def __init__(self, **kwargs: object) -> None:
        super().__init__(layout=ipywidgets.Layout(min_width="0", margin="0"), **kwargs)


class Chart(_Widget):
    """Lines and bars over steps, on a canvas in the page's colours."""

    _esm = _script("canvas.js", "chart.js")
    _css = _CSS
    spec = t.Dict().tag(sync=True)
    data = t.Bytes(b"").tag(sync=True)

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        super().__init__(spec=drawing.spec(), data=drawing.data())

    def show(self, drawing: Drawing) -> None:
        """Draw this from now on."""
        self.drawing = drawing
        with self.hold_sync():
            self.spec, self.data = drawing.spec(), drawing.data()


class Histogram(_Widget):
    """View-space gradients on a logarithmic axis; the threshold is a line that pointer and keys can move.

    Attributes:
        chosen: `grow_grad2d`, NDC; 0 is automatic. The page sets it when the line is let go.
        found: threshold of the last densification, NDC; 0 before the first.
        enabled: whether the line may be moved.
        note: what there is to say, under the title.
    """

    _esm = _script("canvas.js", "histogram.js")
    _css = _CSS
    edges = t.Bytes(b"").tag(sync=True)
    counts = t.Bytes(b"").tag(sync=True)
    found = t.Float(0.0).tag(sync=True)
    chosen = t.Float(0.0).tag(sync=True)
    enabled = t.Bool(True).tag(sync=True)
    note = t.Unicode("no check has looked at gradients yet").tag(sync=True)

    def show(self, gradients: Gradients | None) -> None:
        """Draw the gradients of the last densification; nothing changes without one."""
        if gradients is None:
            return
        with self.hold_sync():
            self.edges = gradients.edges.astype(np.float32).tobytes()
            self.counts = gradients.counts.astype(np.float32).tobytes()
            self.found, self.note = gradients.threshold, gradients.note


class Frames(_Widget):
    """Photograph, render and error map of one view, as JPEG, with a slider through the steps.

    Attributes:
        steps: finished steps of the pictures there are.
        wanted: the one to show; below 0 the latest, whichever that is. The page sets it.
        photo, render, error: JPEG files; empty before the first picture.
        captions: under the three.
        say: words where there is no picture.
    """

    _esm = _script("canvas.js", "frames.js")
    _css = _CSS
    steps = t.List(t.Int()).tag(sync=True)
    wanted = t.Int(-1).tag(sync=True)
    photo = t.Bytes(b"").tag(sync=True)
    render = t.Bytes(b"").tag(sync=True)
    error = t.Bytes(b"").tag(sync=True)
    captions = t.List(t.Unicode()).tag(sync=True)
    say = t.Unicode("").tag(sync=True)
