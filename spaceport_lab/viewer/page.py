"""The splat in a page: SuperSplat's viewer and the .sog in one HTML document that opens offline.

The viewer's files come into the package's data at build time (hatch_build.py). A page holds them gzipped and
in base64, which costs 0.75 MB, and the .sog in base64, 4/3 of its size. Nothing is asked of a network: the
page's content security policy forbids it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from scipy.spatial.transform import Rotation

from spaceport_lab import files
from spaceport_lab.errors import StageError
from spaceport_lab.inspection.viewpoint import Viewpoint, first_view, up_direction
from spaceport_lab.sog import read_sog

_PACKAGE = Path(__file__).resolve().parent.parent
_FILES = _PACKAGE / "_viewer"
TEMPLATES = _PACKAGE / "templates"
"""Pages, style and script as shipped."""

NO_EFFECTS = {
    "sharpness": {"enabled": False, "amount": 0},
    "bloom": {"enabled": False, "intensity": 0.1, "blurLevel": 2},
    "grading": {"enabled": False, "brightness": 1, "contrast": 1, "saturation": 1, "tint": [1, 1, 1]},
    "vignette": {"enabled": False, "intensity": 0.5, "inner": 0.3, "outer": 0.75, "curvature": 1},
    "fringing": {"enabled": False, "intensity": 0.5},
}
"""Post effects as the viewer's settings want them: none, for the picture is to be judged."""

VIEWER_HANDLER = "event.stopPropagation()"
"""The one inline event handler in the viewer's own markup."""


def viewer_html(
    sog: bytes | Path,
    *,
    title: str = "Splat",
    viewpoint: Viewpoint | None = None,
    poster: bytes | None = None,
    lend_wheel: bool = False,
    linked: bool = False,
) -> str:
    """A self-contained page that shows a splat, to be turned with the mouse.

    Args:
        sog: a .sog, or its content; a PLY too, as a path and with a viewpoint.
        title: of the page.
        viewpoint: where it is seen from first; chosen from the splat's bounds, -Y up, when None.
        poster: a JPEG shown while the splat loads.
        lend_wheel: leave the mouse wheel to the page around until the viewer has been clicked.
        linked: tell the page around where the camera goes, and follow what it says; see `pair_html`.

    Raises:
        SplatFormatError: no viewpoint is given and the .sog is damaged.
        StageError: the package was installed without the viewer.
    """
    viewpoint = viewpoint or default_viewpoint(sog)
    content = sog if isinstance(sog, bytes) else Path(sog).read_bytes()
    rotation = world_to_viewer(np.array(viewpoint.up))
    config = {
        "settings": _settings(viewpoint, rotation),
        "rotation": quaternion_xyzw(rotation),
        "lendWheel": lend_wheel,
        "linked": linked,
        # The viewer tells formats apart by the name.
        "filename": "splat.sog" if isinstance(sog, bytes) else f"splat{Path(sog).suffix.lower()}",
    }
    about = _about()
    template = environment().get_template("viewer.html.j2")
    return template.render(
        title=title,
        policy=policy(),
        package=about["package"],
        version=about["version"],
        license=Markup(_read("LICENSE").decode().replace("--", "- -")),
        poster=data_url(poster, "image/jpeg") if poster else None,
        config=Markup(script_json(config)),
        css=_base64(_read("viewer.css.gz")),
        code=_base64(_read("viewer.js.gz")),
        splat=_base64(content),
        script=Markup(_script()),
    )


def viewer_iframe(
    sog: bytes | Path,
    *,
    title: str = "Splat",
    viewpoint: Viewpoint | None = None,
    poster: bytes | None = None,
    height: int | None = None,
) -> str:
    """The viewer as a piece of HTML for a page or a notebook's output: a frame over its poster.

    The frame starts to load when it comes near the visible part of the page. Where frames are taken out, as
    in notebooks that are not trusted, or cannot work, as on paper, the poster stays.

    Args:
        sog: a .sog, or its content.
        title: read out by screen readers, and the poster's alternative text.
        viewpoint: where it is seen from first; chosen from the splat's bounds when None.
        poster: a JPEG of 16:9.
        height: pixels; None keeps 16:9 at any width.

    Raises:
        SplatFormatError: no viewpoint is given and the .sog is damaged.
        StageError: the package was installed without the viewer.
    """
    page = viewer_html(sog, title=title, viewpoint=viewpoint, lend_wheel=True)
    size = f"height:{int(height)}px" if height else "aspect-ratio:16/9"
    return framed(f'srcdoc="{html.escape(page)}"', title, poster, size)


def write_viewer(path: Path, sog: Path, **options: Any) -> Path:
    """Write `viewer_html(sog, **options)` to `path`, for `IPython.display.IFrame` or for a browser.

    Raises:
        WorkspaceError: the folder cannot be written.
    """
    files.write_text(Path(path), viewer_html(sog, **options))
    return Path(path)


def default_viewpoint(sog: bytes | Path) -> Viewpoint:
    """From outside, by the bounds of the splat, with -Y up as 3DGS files have it.

    Raises:
        SplatFormatError: the .sog is damaged.
    """
    if isinstance(sog, bytes):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "splat.sog"
            path.write_bytes(sog)
            return default_viewpoint(path)
    return first_view(read_sog(sog), None, up_direction(None, georeferenced=False))


def world_to_viewer(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The shortest rotation that takes `up` to +Y, the viewer's sky; half a turn about Z where up is -Y."""
    up = np.asarray(up, dtype=float) / np.linalg.norm(up)
    sky = np.array([0.0, 1.0, 0.0])
    cosine = float(up @ sky)
    if cosine < -1 + 1e-9:
        return np.diag([-1.0, -1.0, 1.0])
    axis = np.cross(up, sky)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)  # Rodrigues


def quaternion_xyzw(rotation: Float[np.ndarray, "3 3"]) -> list[float]:
    """Unit quaternion x, y, z, w of a rotation matrix."""
    return [float(x) for x in Rotation.from_matrix(rotation).as_quat()]


def policy(*more: str) -> str:
    """Content security policy of a page with a viewer, and of any page that embeds one: nothing from outside.

    Scripts are the viewer's own, known by its hash, what it unpacks from the page, and the texts in `more`,
    which a page around it needs: a frame inherits the policy of its page.
    """
    scripts = " ".join(f"'sha256-{_sha256(text)}'" for text in (_script(), VIEWER_HANDLER, *more))
    return (
        f"default-src 'none'; script-src {scripts} 'unsafe-hashes' blob:; worker-src blob:; "
        "style-src 'unsafe-inline'; img-src data: blob:; connect-src data: blob:"
    )


def data_url(content: bytes, media_type: str) -> str:
    """`content` as a data URL."""
    return f"data:{media_type};base64,{_base64(content)}"


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element whatever texts it holds."""
    return json.dumps(files.plain(value), allow_nan=False).replace("<", "\\u003c")


@cache
def environment() -> jinja2.Environment:
    """Templates of the package; whatever is filled in is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def framed(content: str, title: str, poster: bytes | None, size: str) -> str:
    """A frame with `content` as its src or srcdoc attribute, over the poster; `size` is CSS."""
    name = html.escape(title)
    fill = "position:absolute;inset:0;width:100%;height:100%;border:0"
    picture = ""
    if poster:
        url = data_url(poster, "image/jpeg")
        picture = f'<img alt="{name}" style="{fill};object-fit:cover" src="{url}">'
    return (
        f'<div class="splat-viewer" style="position:relative;overflow:hidden;background:#000;{size}">'
        f'{picture}<iframe title="{name}" style="{fill};color-scheme:light dark" loading="lazy" '
        f'allow="fullscreen; xr-spatial-tracking" {content}></iframe></div>'
    )


def _settings(viewpoint: Viewpoint, rotation: Float[np.ndarray, "3 3"]) -> dict[str, Any]:
    """The viewer's settings, version 2: no animation, no effects, seen from `viewpoint`."""
    initial = {
        "position": list(rotation @ np.array(viewpoint.position)),
        "target": list(rotation @ np.array(viewpoint.target)),
        "fov": viewpoint.fov,
    }
    return {
        "version": 2,
        "tonemapping": "none",
        "highPrecisionRendering": False,
        "background": {"color": [0, 0, 0]},
        "postEffectSettings": NO_EFFECTS,
        "animTracks": [],
        "cameras": [{"initial": initial}],
        "annotations": [],
        "startMode": "default",
    }


@cache
def _script() -> str:
    return (TEMPLATES / "viewer.js").read_text()


def _about() -> dict[str, Any]:
    return json.loads(_read("build.json"))


@cache
def _read(name: str) -> bytes:
    try:
        return (_FILES / name).read_bytes()
    except FileNotFoundError as error:
        raise StageError(
            "this installation lacks the 3D viewer that reports embed",
            got=f"no {_FILES / name}",
            expected="files the build brings from npm when the package is installed",
            hint="with a network, install again: pip install --force-reinstall --no-deps (-e) and the folder",
        ) from error


def _sha256(text: str) -> str:
    return _base64(hashlib.sha256(text.encode()).digest())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
