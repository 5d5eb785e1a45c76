"""The bench as one picture: what exports and viewers without widgets show in its place."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from spaceport_lab.plots.style import BLUE, RED, engineering, figure, picture_axes, style
from spaceport_lab.widgets.drawing import Drawing, draw
from spaceport_lab.widgets.records import Gradients


def picture(drawings: Sequence[Drawing], gradients: Gradients | None, pictures: Sequence[bytes]) -> bytes:
    """All charts, and photograph, render and error map where there are any, as a PNG file.

    Args:
        drawings: the line charts.
        gradients: of the last densification; None leaves them out.
        pictures: JPEG files, with their place at the end.
    """
    columns = 3
    charts = -(-(len(drawings) + (gradients is not None)) // columns)  # rows of them
    rows = charts + -(-len(pictures) // columns)
    with style():
        fig, axes = figure(9.6, 2.45 * rows, rows=rows, columns=columns)
        places = list(axes.flat)
        for drawing in drawings:
            draw(places.pop(0), drawing)
        if gradients is not None:
            _draw_gradients(places.pop(0), gradients)
        rest = places[: charts * columns - len(axes.flat) + len(places)]
        for ax, content in zip(axes.flat[charts * columns :], pictures, strict=False):
            picture_axes(ax)
            ax.imshow(np.asarray(Image.open(io.BytesIO(content))))
        for ax in rest + list(axes.flat[charts * columns + len(pictures) :]):
            ax.set_visible(False)
    return _png(fig)


def _draw_gradients(ax: Axes, gradients: Gradients) -> None:
    widths = np.diff(gradients.edges)
    colors = [RED if edge >= gradients.threshold > 0 else BLUE for edge in gradients.edges[:-1]]
    ax.bar(gradients.edges[:-1], gradients.counts, width=widths, align="edge", color=colors)
    if gradients.threshold > 0:
        ax.axvline(gradients.threshold, color="black", lw=1.2)
    ax.set_xscale("log")
    ax.set_title("View-space gradients")
    engineering(ax)


def _png(fig: Figure) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return buffer.getvalue()
