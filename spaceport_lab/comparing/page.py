"""The comparison as one HTML page that opens offline, as parts of a notebook, and as JSON."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from spaceport_lab import __version__, files, runcard, viewer
from spaceport_lab.comparing import table
from spaceport_lab.comparing.compared import Comparison, Shared
from spaceport_lab.images import load_rgb
from spaceport_lab.inspection.views import fitted
from spaceport_lab.plots import compare as plots
from spaceport_lab.report.drawings import DPI, SHOWN_DPI, pixels, webp_url
from spaceport_lab.report.facts import when

PICTURE_SIDE = 960
"""Longest side in pixels of a view in the page; less where there are many runs."""

PICTURE_BYTES = 3_000_000
"""All views of a page together are about this large at the most."""

NAME_ALT = "One line a run, from its first evaluation to its last"


@dataclass(frozen=True)
class Side:
    """A picture that can be on either side of the edge: a data URL and what it is."""

    label: str
    url: str


@dataclass(frozen=True)
class Drawing:
    """A chart in the page."""

    anchor: str
    title: str
    alt: str
    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Html:
    """A piece of HTML for a notebook, with its text for where there is no browser."""

    html: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def curves(compared: Comparison) -> Figure:
    """PSNR against training seconds, one line a run."""
    lines = [
        plots.Curve(run.name, [point[0] for point in run.curve], [point[2] for point in run.curve])
        for run in compared.runs
    ]
    return plots.curves(lines, compared.target())


def parallel(compared: Comparison) -> Figure:
    """Parameters that differ, beside the PSNR they led to."""
    dimensions = [plots.Dimension(d.name, _values(d.numbers, d.values)) for d in compared.differences()]
    return plots.parallel(dimensions, [_psnr(run.figures) for run in compared.runs])


def html(compared: Comparison, title: str = "") -> str:
    """The page. Raises nothing of its own: what cannot be read is named in it."""
    shared = compared.shared_view()
    script = f"{_template('compare.js')}\ncompareRuns(document);\n"
    scene = ", ".join(compared.scenes)
    return (
        viewer.environment()
        .get_template("compare.html.j2")
        .render(
            title=title or f"{len(compared.runs)} runs of {scene}",
            policy=viewer.policy(script),
            style=Markup(_template("report.css") + _template("compare.css")),
            script=Markup(script),
            scenes=compared.scenes,
            written=when(runcard.now()),
            version=__version__,
            notes=compared.notes(),
            columns=table.columns(compared),
            rows=table.rows(compared),
            runs=compared.runs,
            differences=compared.differences(),
            pictures=_drawings(compared),
            view=shared.name,
            view_note=shared.note,
            sides=_sides(shared),
        )
    )


def write_html(path: Path, compared: Comparison, title: str = "") -> Path:
    """Write `html` to `path`.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    files.write_text(Path(path), html(compared, title))
    return Path(path)


def write_json(path: Path, compared: Comparison) -> Path:
    """Write figures, differences and curves to `path`.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    shared = compared.shared_view()
    runs = [
        {
            **{k: v for k, v in asdict(run).items() if k not in ("views", "params", "figures")},
            "figures": table.figures(compared, run),
        }
        for run in compared.runs
    ]
    content = {
        "runs": runs,
        "unreadable": [{"folder": folder, "reason": reason} for folder, reason in compared.unreadable],
        "differences": [
            {"name": d.name, "values": dict(zip([r.name for r in compared.runs], d.values, strict=True))}
            for d in compared.differences()
        ],
        "target_psnr": compared.target(),
        "view": {"name": shared.name, "note": shared.note, "runs": list(shared.views)},
    }
    files.write_json(Path(path), content)
    return Path(path)


def runs_table(compared: Comparison) -> Html:
    """Every run with its figures, for a notebook: a click on a heading sorts."""
    heads = [column.label for column in table.columns(compared)]
    lines = ["  ".join(["run", "status", *heads])]
    for run, cells in zip(compared.runs, table.rows(compared), strict=True):
        lines.append("  ".join([run.name, run.status, *(cell.text for cell in cells), run.reason]))
    lines += compared.notes()
    call = "table(columns, runs, rows, scenes)"
    values = {"columns": table.columns(compared), "rows": table.rows(compared), "scenes": compared.scenes}
    return Html(_part(call, notes=compared.notes(), runs=compared.runs, **values), "\n".join(lines))


def differences_table(compared: Comparison) -> Html:
    """Parameters that differ, for a notebook."""
    rows = compared.differences()
    if not rows:
        text = "these runs were made with the same parameters"
        return Html(f"<p>{text.capitalize()}.</p>", text)
    lines = ["  ".join(["parameter", *(run.name for run in compared.runs)])]
    lines += ["  ".join([row.name, *row.values]) for row in rows]
    return Html(
        _part("differences(differences, runs)", differences=rows, runs=compared.runs), "\n".join(lines)
    )


def view_swipe(compared: Comparison) -> Html:
    """One held-out view of two runs with an edge to move, for a notebook."""
    shared = compared.shared_view()
    if not shared.name:
        return Html(f"<p>{shared.note.capitalize()}.</p>", shared.note)
    notes = [shared.note] if shared.note else []
    part = _part("swipe(sides, view)", notes=notes, sides=_sides(shared), view=shared.name)
    return Html(part, f"{shared.name}: {', '.join(shared.views)}")


def _part(call: str, notes: Sequence[str] = (), **values: Any) -> str:
    """A macro of compare_parts with its style and script, in an element of its own."""
    name = f"cmp-{secrets.token_hex(4)}"
    source = '{% import "compare_parts.html.j2" as parts %}{{ parts.' + call + " }}"
    source += "{% for text in notes %}<p>{{ text }}</p>{% endfor %}"
    part = viewer.environment().from_string(source).render(notes=notes, **values)
    # In a function, so that several parts of one notebook do not declare a name twice.
    script = f'(() => {{ {_template("compare.js")} compareRuns(document.getElementById("{name}")); }})();'
    return (
        f'<div class="cmp-nb" id="{name}"><style>{_template("compare.css")}</style>{part}</div>'
        f"<script>{script}</script>"
    )


def _drawings(compared: Comparison) -> list[Drawing]:
    drawings = [_drawing("curves", "PSNR against training time", NAME_ALT, curves(compared))]
    if len(compared.runs) > 2 and compared.differences():
        title, alt = "Parameters beside what came out", "One line a run through its parameters to its PSNR"
        drawings.append(_drawing("parallel", title, alt, parallel(compared)))
    return drawings


def _drawing(anchor: str, title: str, alt: str, figure: Figure) -> Drawing:
    image = pixels(figure)
    height, width = (round(side * SHOWN_DPI / DPI) for side in image.shape[:2])
    return Drawing(anchor, title, alt, webp_url(image, 100, lossless=True), width, height)


def _sides(shared: Shared) -> list[Side]:
    """The renders of the view, and the photograph last."""
    if not shared.name:
        return []
    longest = PICTURE_SIDE
    while True:
        sides = [_side(_label(name, view.psnr), view.render, longest) for name, view in shared.views.items()]
        sides.append(_side("photograph", next(iter(shared.views.values())).photo, longest))
        if sum(len(side.url) for side in sides) <= PICTURE_BYTES or longest < 240:
            return sides
        longest = longest * 3 // 4


def _side(label: str, path: Path, longest: int) -> Side:
    image = load_rgb(path)
    small = Image.fromarray(image).resize(fitted(image.shape, longest), Image.Resampling.BOX)
    return Side(label, webp_url(np.asarray(small), 80))


def _label(name: str, psnr: float | None) -> str:
    return name if psnr is None else f"{name}, {psnr:.2f} dB"


def _values(numbers: Sequence[float | None], texts: Sequence[str]) -> list[float | str | None]:
    """Numbers where all runs have one, else words."""
    if all(number is not None or text == "–" for number, text in zip(numbers, texts, strict=True)):
        return list(numbers)
    return [None if text == "–" else text for text in texts]


def _psnr(figures: Any) -> float | None:
    value = figures.get("psnr", figures.get("psnr_sog"))
    return float(value) if isinstance(value, int | float) else None


def _template(name: str) -> str:
    return (viewer.TEMPLATES / name).read_text(encoding="utf-8")
