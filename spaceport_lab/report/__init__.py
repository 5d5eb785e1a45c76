"""report.html: a whole run in one file that opens offline.

At most 1.5 MB and 4/3 of the .sog: the viewer takes half of that, drawings a fixed share, and pictures of
held-out views, worst first, what is left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from spaceport_lab import files, runcard, viewer
from spaceport_lab.cameras import frame_in_words
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.inspection.viewpoint import Viewpoint
from spaceport_lab.inspection.views import ERROR_CEILING, ViewPicture, fitted, read_pictures, read_views
from spaceport_lab.params import STAGES
from spaceport_lab.plots.inspect import error_picture
from spaceport_lab.report import facts
from spaceport_lab.report.drawings import draw_all, webp_url
from spaceport_lab.workspace import folder_name

REPORT_BYTES = 1_500_000
"""The report is smaller than this and 4/3 of the .sog."""

VIEW_SIZES = ((640, 78), (560, 74), (480, 72), (400, 68), (320, 64))
"""Longest side in pixels and WebP quality, tried in this order until the held-out views fit."""


@dataclass(frozen=True)
class Row:
    """A held-out view in the page: data URLs of photograph, render and error map."""

    name: str
    psnr: str
    ssim: str
    photo: str
    render: str
    error: str

    @property
    def bytes(self) -> int:
        """Of the three pictures."""
        return len(self.photo) + len(self.render) + len(self.error)


def write_report(run_root: Path) -> Path:
    """Write report.html of a run, whatever stages it has, and note its size on the run card.

    Raises:
        WorkspaceError: there is no run card, or the folder cannot be written.
        StageError: the package was installed without the viewer.
    """
    root = Path(run_root).resolve()
    card = runcard.read(root)
    if card is None:
        raise WorkspaceError("a report is made from a run card", got=f"no run.json in {root}")
    path = root / "report.html"
    files.write_text(path, render_report(root, card))
    if "inspect" in card["stages"]:
        n_bytes = path.stat().st_size

        def note(card: dict[str, Any]) -> None:
            card["stages"]["inspect"].setdefault("metrics", {})["report_bytes"] = n_bytes

        runcard.update(root, note)
    return path


def render_report(root: Path, card: dict[str, Any]) -> str:
    """The report as text.

    Raises:
        StageError: the package was installed without the viewer.
    """
    done = [s for s in STAGES if s in card["stages"] and (root / folder_name(s) / "stage.json").exists()]
    sog = root / folder_name("compress") / "splat.sog"
    stages = facts.stage_rows(card)
    context = {
        "card": card,
        "style": Markup((viewer.TEMPLATES / "report.css").read_text()),
        "policy": viewer.policy(),
        "viewer": Markup(_viewer(root, sog)) if "compress" in done else "",
        "sog_size": facts.size(sog.stat().st_size) if "compress" in done else "",
        "tiles": facts.tiles(card),
        "stages": stages,
        "frame": frame_in_words(root / folder_name("sfm")) if "sfm" in done else "",
        "by_name": {"compress": None, "inspect": None, **{row["stage"]: row for row in stages}},
        "verdicts": facts.verdicts(card),
        "advice": _advice(root) if "inspect" in done else [],
        "warnings": facts.warnings(card),
        "pictures": draw_all(root, done),
        "compression": facts.compression(root) if "compress" in done else None,
        "statistics": _statistics(root) if "inspect" in done else None,
        "n_views": len(read_views(root / folder_name("inspect"))["views"]) if "inspect" in done else 0,
        "no_views": read_views(root / folder_name("inspect"))["reason"] if "inspect" in done else "",
        "params": facts.param_rows(card),
        "environment": facts.environment_rows(card),
        "request": facts.request_rows(card),
        "error_ceiling": ERROR_CEILING,
        "error_scale": _error_scale(),
        "ended": facts.when(card["ended"]) if card.get("ended") else "",
        "written": facts.when(runcard.now()),
    }
    template = viewer.environment().get_template("report.html.j2")
    without = len(template.render(**context, rows=[]).encode())
    sog_share = 4 * (-(-sog.stat().st_size // 3)) if "compress" in done else 0
    pictures = read_pictures(root / folder_name("inspect")) if "inspect" in done else []
    rows = fit_rows(pictures, REPORT_BYTES - (without - sog_share) - 20_000)
    return template.render(**context, rows=rows)


def fit_rows(pictures: Sequence[ViewPicture], budget: int) -> list[Row]:
    """Held-out views as data URLs within `budget` bytes: as large as fits, then as many as fit."""
    rows: list[Row] = []
    for longest_side, quality in VIEW_SIZES:
        rows = [_row(picture, longest_side, quality) for picture in pictures]
        if sum(row.bytes for row in rows) <= budget:
            return rows
    while rows and sum(row.bytes for row in rows) > budget:
        rows.pop()
    return rows


def _row(picture: ViewPicture, longest_side: int, quality: int) -> Row:
    size = fitted(picture.photo.shape, longest_side)
    photo, render, error = (
        webp_url(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)), quality)
        for image in (picture.photo, picture.render, error_picture(picture.error))
    )
    return Row(picture.name, f"{picture.psnr:.2f}", f"{picture.ssim:.3f}", photo, render, error)


def _viewer(root: Path, sog: Path) -> str:
    """The frame with the splat, over the poster where there is one."""
    stage = root / folder_name("inspect")
    poster, first = stage / "poster.jpg", stage / "viewer.json"
    return viewer.viewer_iframe(
        sog,
        title=f"The splat of {root.name}",
        viewpoint=Viewpoint.from_json(json.loads(first.read_text())) if first.exists() else None,
        poster=poster.read_bytes() if poster.exists() else None,
    )


def _statistics(root: Path) -> list[dict[str, str]]:
    """What looks like trouble, as rows of a table."""
    statistics = json.loads((root / folder_name("inspect") / "statistics.json").read_text())
    return [
        {"name": name, "count": f"{s['count']:,}", "share": f"{s['share']:.2%}", "rule": s["rule"]}
        for name, s in statistics["suspects"].items()
    ]


def _advice(root: Path) -> list[dict[str, str]]:
    """What to do next; nothing in runs of versions that did not say it."""
    path = root / folder_name("inspect") / "advice.json"
    return json.loads(path.read_text()) if path.exists() else []


def _error_scale() -> str:
    """The error map's colours as a CSS gradient."""
    ramp = error_picture(np.linspace(0, ERROR_CEILING, 9)[None])[0]
    return "linear-gradient(to right, " + ", ".join(f"#{bytes(color).hex()}" for color in ramp) + ")"
