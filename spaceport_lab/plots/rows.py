"""Photograph, render and error side by side, one row a view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure

from spaceport_lab.inspection.views import ERROR_CEILING
from spaceport_lab.plots.style import ERROR_MAP, figure, picture_axes, style

NAME_LENGTH = 48
"""Letters of a file name that a third of a figure has room for."""


@dataclass(frozen=True)
class Row:
    """A view compared.

    Attributes:
        photo, render: 8 bits, or 0..1.
        error: mean absolute difference of the channels, grey levels of 255.
        titles: over each of the three.
    """

    photo: Shaped[np.ndarray, "H W 3"]
    render: Shaped[np.ndarray, "H W 3"]
    error: Float[np.ndarray, "H W"]
    titles: tuple[str, str, str]


def comparison(rows: Sequence[Row], width: float) -> Figure:
    """One row a view, at least one, with one scale of errors for all; `width` in inches."""
    height, across = rows[0].photo.shape[:2]
    each = 0.86 * width / 3 * height / across + 0.32
    with style():
        fig, axes = figure(width, each * len(rows) + 0.25, rows=len(rows), columns=3)
        for line, row in zip(axes, rows, strict=True):
            for ax, title in zip(line, row.titles, strict=True):
                picture_axes(ax)
                ax.set_title(short(title), fontsize=9, weight="normal")
            line[0].imshow(row.photo)
            line[1].imshow(row.render)
            shown = line[2].imshow(row.error, cmap=ERROR_MAP, vmin=0, vmax=ERROR_CEILING)
        # The three columns explain themselves only once.
        bar = fig.colorbar(shown, ax=axes[:, 2], shrink=min(1.0, 2.2 / len(rows)), pad=0.02, extend="max")
        bar.set_label("mean absolute error [grey levels of 255]", fontsize=8)
        bar.outline.set_visible(False)
    return fig


def short(text: str, length: int = NAME_LENGTH) -> str:
    """Long file names keep their end, which tells them apart; a dollar sign is no formula."""
    text = text if len(text) <= length else "…" + text[1 - length :]
    return text.replace("$", r"\$")
