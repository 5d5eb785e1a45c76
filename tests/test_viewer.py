"""The viewer: one page, no network, the same picture as our own rasterizer draws, the right way up."""

from __future__ import annotations

import base64
import gzip
import html.parser
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import browser, drag, open_file, picture, settled, wait_until_shown
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_gaussians

from spaceport_lab import evaluation, metrics, viewer
from spaceport_lab.errors import SplatFormatError, StageError
from spaceport_lab.gaussians import Gaussians
from spaceport_lab.inspection.viewpoint import Viewpoint
from spaceport_lab.sog import SogOptions, read_sog, write_sog

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "</script><script>alert(1)</script>\"'&<b>$x^2$"


@pytest.fixture(scope="module")
def sog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colourful mound, +Z up, with a red mast on its east side: no symmetry hides a turn or a mirror."""
    path = tmp_path_factory.mktemp("viewer") / "splat.sog"
    mound = make_gaussians(1500, np.random.default_rng(1))
    mast = mound.subset(slice(0, 40))
    means = np.column_stack([np.full(40, 1.2), np.zeros(40), np.linspace(0, 2.5, 40)]).astype(np.float32)
    sh0 = np.tile(np.array([1.7, -1.7, -1.7], np.float32), (40, 1, 1))
    mast = replace(mast, means=means, sh0=sh0, scales=np.full((40, 3), -2.5, np.float32))
    fields = ("means", "quats", "scales", "opacities", "sh0", "shN")
    both = Gaussians(*(np.concatenate([getattr(mound, f), getattr(mast, f)]) for f in fields))
    write_sog(path, both, SogOptions(sh_degree=0))
    return path


VIEW = Viewpoint((3.5, -4.5, 3.0), (0.0, 0.0, 0.6), (0.0, 0.0, 1.0), 50.0)


class Page(html.parser.HTMLParser):
    """Elements of a page: (tag, attributes), and the texts inside by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open, []).append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_built_viewer_is_the_pinned_one() -> None:
    pinned = json.loads((ROOT / "viewer" / "package.json").read_text())["dependencies"]
    lock = json.loads((ROOT / "viewer" / "package-lock.json").read_text())["packages"]
    built = json.loads((ROOT / "spaceport_lab" / "_viewer" / "build.json").read_text())
    assert pinned == {built["package"]: built["version"]}
    assert lock[f"node_modules/{built['package']}"]["version"] == built["version"]
    assert all("integrity" in entry for name, entry in lock.items() if name)


def test_a_page_holds_all_it_needs_and_asks_for_nothing(sog: Path) -> None:
    text = viewer.viewer_html(sog, viewpoint=VIEW, title=HOSTILE)
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert len(page.of("script")) == 5
    assert page.texts["title"][0] == HOSTILE
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    content = re.search(r'id="splat">([^<]+)<', text)[1]
    assert base64.b64decode(content) == sog.read_bytes()
    code = gzip.decompress(base64.b64decode(re.search(r'id="code">([^<]+)<', text)[1]))
    assert b"createViewer" in code
    assert "Permission is hereby granted" in text, "the viewer's licence goes with it"
    assert len(text) < 0.78e6 + 4 / 3 * sog.stat().st_size
    assert viewer.viewer_html(sog.read_bytes(), viewpoint=VIEW, title=HOSTILE) == text


def test_a_frame_holds_the_page_whatever_the_title(sog: Path) -> None:
    page = Page(viewer.viewer_iframe(sog, title=HOSTILE, viewpoint=VIEW, poster=b"jpeg", height=300))
    (frame,), (poster,) = page.of("iframe"), page.of("img")
    assert frame["srcdoc"] == viewer.viewer_html(sog, title=HOSTILE, viewpoint=VIEW, lend_wheel=True)
    assert frame["title"] == poster["alt"] == HOSTILE
    assert poster["src"] == "data:image/jpeg;base64,anBlZw=="
    assert "height:300px" in page.of("div")[0]["style"]


def test_script_json_cannot_leave_its_script() -> None:
    text = viewer.script_json({"a": HOSTILE, "b": np.float32(1)})
    assert "<" not in text
    assert json.loads(text) == {"a": HOSTILE, "b": 1.0}


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3))
def test_any_up_becomes_the_viewer_s_sky_by_a_rotation(up: tuple[float, float, float]) -> None:
    rotation = viewer.world_to_viewer(np.array(up))
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
    assert np.allclose(rotation @ up / np.linalg.norm(up), [0, 1, 0], atol=1e-6)
    x, y, z, w = viewer.quaternion_xyzw(rotation)
    assert np.allclose(
        rotation[:, 0], [1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], atol=1e-6
    )


def test_the_two_usual_worlds_are_turned_as_viewers_expect() -> None:
    assert np.allclose(viewer.world_to_viewer(np.array([0, 0, 1])) @ [1, 2, 3], [1, 3, -2])
    assert np.allclose(viewer.world_to_viewer(np.array([0, -1, 0])) @ [1, 2, 3], [-1, -2, 3])


def test_without_a_viewpoint_one_is_chosen_and_a_broken_file_is_told(sog: Path, tmp_path: Path) -> None:
    assert viewer.default_viewpoint(sog.read_bytes()) == viewer.default_viewpoint(sog)
    assert viewer.default_viewpoint(sog).up == (0.0, -1.0, 0.0)
    (tmp_path / "x.sog").write_bytes(b"no zip")
    with pytest.raises(SplatFormatError):
        viewer.viewer_html(tmp_path / "x.sog")


def test_an_installation_without_the_viewer_says_what_to_do(
    sog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer.page._read.cache_clear()
    monkeypatch.setattr(viewer.page, "_FILES", tmp_path)
    with pytest.raises(StageError, match=r"lacks the 3D viewer[\s\S]*pip install"):
        viewer.viewer_html(sog, viewpoint=VIEW)


@pytest.mark.browser
@pytest.mark.parametrize(
    "up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.6, 0.0, -0.8)], ids=["z-up", "y-down", "any"]
)
def test_the_viewer_draws_what_our_rasterizer_draws_and_turns(sog: Path, tmp_path: Path, up) -> None:
    splat, view = in_world_with(up, read_sog(sog))
    path = tmp_path / "splat.sog"
    write_sog(path, splat, SogOptions(sh_degree=0))
    viewer.write_viewer(tmp_path / "page.html", path, viewpoint=view)
    with browser(640, 420) as context:
        tab = open_file(context, tmp_path / "page.html")
        wait_until_shown(tab.page)
        seen = settled(tab)
        tab.page.wait_for_timeout(1000)
        again = picture(tab)
        drag(tab, 320, 200, 110, 0)
        turned = settled(tab)
    assert tab.requests == []
    assert tab.errors == []
    expected = evaluation.render_view(read_sog(path), view.camera(640, 420), 0)
    free = np.s_[:330]  # below, buttons fade when nobody moves
    assert expected[free].std() > 0.1, "there is something to see"
    assert metrics.psnr(seen[free] / 255, expected[free]) > 28
    assert difference(seen[free], again[free]) < 0.05
    assert difference(seen[free], turned[free]) > 5


def in_world_with(up: tuple[float, float, float], splat: Gaussians) -> tuple[Gaussians, Viewpoint]:
    """The splat and VIEW where `up` is up instead of +Z; its Gaussians are made round, so none is turned."""
    to_viewer, from_z = viewer.world_to_viewer(np.array(up)), viewer.world_to_viewer(np.array([0.0, 0, 1]))
    rotation = to_viewer.T @ from_z
    round_scales = np.repeat(splat.scales.mean(axis=1, keepdims=True), 3, axis=1)
    turned = replace(splat, means=(splat.means @ rotation.T).astype(np.float32), scales=round_scales)
    position, target = (tuple(rotation @ np.array(v)) for v in (VIEW.position, VIEW.target))
    return turned, Viewpoint(position, target, up, VIEW.fov)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


@pytest.mark.browser
def test_in_a_sandboxed_frame_it_works_and_without_webgl_it_says_so(sog: Path, tmp_path: Path) -> None:
    """JupyterLab serves pages of a folder in a sandbox, without storage and without an origin."""
    viewer.write_viewer(tmp_path / "inner.html", sog, viewpoint=VIEW, poster=b"")
    (tmp_path / "outer.html").write_text(
        '<iframe sandbox="allow-scripts" style="width:500px;height:340px" src="inner.html"></iframe>'
    )
    with browser(640, 420) as context:
        tab = open_file(context, tmp_path / "outer.html", also=[tmp_path / "inner.html"])
        wait_until_shown(tab.page.frames[1])
        assert settled(tab, {"x": 60, "y": 60, "width": 380, "height": 200}).std() > 20
        assert tab.errors == []
        context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
        page = context.new_page()
        page.goto((tmp_path / "inner.html").as_uri())
        page.wait_for_selector("html[data-state=failed]", state="attached", timeout=60_000)
        assert "WebGL 2" in page.inner_text(".message")
        assert page.locator(".message").is_visible()


def hook():
    """hatch_build.py as a module."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_build_hook_does_nothing_when_the_files_are_there(tmp_path: Path) -> None:
    build = hook()
    target = tmp_path / "_viewer"
    shutil.copytree(ROOT / "spaceport_lab" / "_viewer", target)
    stamp = build.stamp_of(ROOT / "viewer")
    assert build.is_current(target, stamp), "reinstall: the viewer's files are of other inputs"
    assert build.bring_viewer(ROOT / "viewer", target) is False
    assert not build.is_current(target, "another stamp")
    (target / "viewer.js.gz").unlink()
    assert not build.is_current(target, stamp)


def test_the_build_hook_without_a_network_says_what_it_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match=r"could not be brought from npm[\s\S]*check the network"):
        hook().bring_viewer(ROOT / "viewer", tmp_path / "_viewer")
    assert not (tmp_path / "_viewer").exists()
