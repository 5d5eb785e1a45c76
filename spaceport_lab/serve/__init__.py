"""The start-job API: one core behind two doors, a small page, and the rules for what may come in.

`rules` says what may be asked for, `core` does it, `app` is the door of `spaceport-lab serve` (FastAPI, a
bearer token), `jupyter` the one in a notebook server (its own token, XSRF and Host check).
"""

from __future__ import annotations


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Where Jupyter Server finds the extension."""
    return [{"module": "spaceport_lab.serve.jupyter"}]
