"""Two splats side by side in one page, seen by one camera: turn one and the other turns with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from spaceport_lab import files
from spaceport_lab.inspection.viewpoint import Viewpoint
from spaceport_lab.viewer.page import TEMPLATES, environment, policy, viewer_html


@dataclass(frozen=True)
class Side:
    """One of two splats.

    Attributes:
        splat: a .sog or its content, or a PLY as a path.
        label: what it is, in a few words, shown above it.
        legend: what its colours mean: name and CSS colour of each.
    """

    splat: bytes | Path
    label: str
    legend: tuple[tuple[str, str], ...] = ()


def pair_html(left: Side, right: Side, *, title: str, viewpoint: Viewpoint, lend_wheel: bool = False) -> str:
    """A self-contained page with both; a drag, a wheel or a key in one moves the cameras of both.

    Each viewer lies in a frame of its own and tells the page where its camera goes while a person steers it;
    the page hands that on to the other.

    Args:
        left, right: what is shown.
        title: of the page.
        viewpoint: where both are seen from first.
        lend_wheel: leave the mouse wheel to the page around until a viewer has been clicked.

    Raises:
        StageError: the package was installed without the viewer.
    """
    sides = [
        {
            "label": side.label,
            "legend": side.legend,
            "page": viewer_html(
                side.splat, title=side.label, viewpoint=viewpoint, lend_wheel=lend_wheel, linked=True
            ),
        }
        for side in (left, right)
    ]
    return (
        environment()
        .get_template("pair.html.j2")
        .render(title=title, policy=policy(_relay()), sides=sides, script=Markup(_relay()))
    )


def write_pair(
    path: Path, left: Side, right: Side, *, title: str, viewpoint: Viewpoint, lend_wheel: bool = False
) -> Path:
    """Write `pair_html(...)` to `path`, for a frame in a notebook or for a browser.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    page = pair_html(left, right, title=title, viewpoint=viewpoint, lend_wheel=lend_wheel)
    files.write_text(Path(path), page)
    return Path(path)


@cache
def _relay() -> str:
    return (TEMPLATES / "pair.js").read_text()
