"""The start page's files, for both doors."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_REPORT_STYLE = _HERE.parent.parent / "templates" / "report.css"

FILES = {
    "report.css": (_REPORT_STYLE, "text/css; charset=utf-8"),  # the page looks as the report does
    "page.css": (_HERE / "page.css", "text/css; charset=utf-8"),
    "page.js": (_HERE / "page.js", "text/javascript; charset=utf-8"),
    "jobs.js": (_HERE / "jobs.js", "text/javascript; charset=utf-8"),
    "service.js": (_HERE / "service.js", "text/javascript; charset=utf-8"),
}
"""What index.html asks for → its file and media type."""


@cache
def index(door: str) -> str:
    """index.html for a door: `token` (the page shows a bearer token), `jupyter` (the server's own login)."""
    return (_HERE / "index.html").read_text().replace('data-door=""', f'data-door="{door}"')
