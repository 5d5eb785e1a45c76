"""report.html: whole, small, safe, without a network, and its splat turns."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import browser, drag, open_address, open_file, picture, served, settled, wait_until_shown
from inspected import make_run
from matplotlib.figure import Figure
from test_viewer import Page, difference

from spaceport_lab import report, runcard
from spaceport_lab.errors import WorkspaceError
from spaceport_lab.inspection.views import ViewPicture
from spaceport_lab.report import REPORT_BYTES, drawings, facts, fit_rows
from spaceport_lab.workspace import folder_name

HOSTILE = "<script>alert(1)</script> \"'&{{ 7*7 }}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_flight: Path) -> Path:
    root = make_run(tmp_path_factory.mktemp("data"), flight=tiny_flight)
    report.write_report(root)
    return root


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A run of one's own."""
    mine = tmp_path / "mound" / "runs" / "mound-1"
    shutil.copytree(root, mine)
    return mine


def written(root: Path) -> str:
    return report.write_report(root).read_text()


def test_the_report_is_one_small_file_that_asks_for_nothing(root: Path) -> None:
    path = root / "report.html"
    sog = (root / "04_compress" / "splat.sog").stat().st_size
    assert path.stat().st_size < REPORT_BYTES + 4 / 3 * sog
    page = Page(path.read_text())
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert re.match(r"data:|#", attributes.get(name, "#")), (tag, attributes)
    assert page.of("script") == [], "the only scripts are the viewer's, inside its frame"
    assert "default-src 'none'" in next(a["content"] for a in page.of("meta") if a.get("http-equiv"))
    assert runcard.read(root)["stages"]["inspect"]["metrics"]["report_bytes"] == path.stat().st_size


def test_every_picture_is_there_and_says_what_it_shows(root: Path) -> None:
    text = (root / "report.html").read_text()
    assert "could not be drawn" not in text
    images = Page(text).of("img")
    wanted = [d for d in drawings.DRAWINGS if d.stage in runcard.read(root)["stages"]]
    assert {d.stage for d in wanted} == {"ingest", "train", "compress", "inspect"}
    n_views = len(json.loads((root / "05_inspect" / "views.json").read_text())["views"])
    assert len(images) == 1 + len(wanted) + 3 * n_views
    assert all(len(image["alt"]) > 10 for image in images)
    assert len({image["src"] for image in images}) == len(images)


def test_what_the_run_card_says_is_told(root: Path) -> None:
    text, card = (root / "report.html").read_text(), runcard.read(root)
    metrics = card["stages"]["inspect"]["metrics"]
    assert f"{metrics['psnr_heldout']:.2f} dB" in text
    assert f"{card['stages']['compress']['metrics']['n_gaussians']:,}" in text
    for name, entry in card["params"]["train"].items():
        assert f"<code>{name}</code>" in text, entry
    for version in filter(None, card["versions"].values()):
        assert version in text
    for stage in ("train", "compress", "inspect"):
        assert f'id="{stage}"' in text
    for sentence in card["stages"]["train"]["metrics"]["verdicts"]:
        assert sentence in Page(text).texts["li"]


def test_hostile_names_stay_text(copy: Path) -> None:
    def spoil(card: dict) -> None:
        card.update(
            job=HOSTILE, scene=HOSTILE, error=HOSTILE, request={"steps": HOSTILE, "presets": [HOSTILE]}
        )
        card["stages"]["train"].update(warnings=[HOSTILE], error=HOSTILE, name=HOSTILE, status=HOSTILE)
        card["params"]["train"]["backend"] = {"value": HOSTILE, "origin": HOSTILE}
        card["versions"][HOSTILE] = HOSTILE

    runcard.update(copy, spoil)
    views = json.loads((copy / "05_inspect" / "views.json").read_text())
    views["views"][0]["name"] = HOSTILE
    (copy / "05_inspect" / "views.json").write_text(json.dumps(views))
    page = Page(written(copy))
    assert page.of("script") == []
    assert HOSTILE in page.texts["h1"][0]
    assert any(HOSTILE in text for text in page.texts["strong"])
    assert not any("49" in text and "alert" in text for texts in page.texts.values() for text in texts)


@pytest.mark.parametrize(
    "gone", [("ingest", "train"), ("compress", "inspect"), ("inspect",), ("train", "inspect")]
)
def test_stages_that_did_not_run_are_left_out(copy: Path, gone: tuple[str, ...]) -> None:
    for stage in gone:
        shutil.rmtree(copy / folder_name(stage))
    runcard.update(copy, lambda card: [card["stages"].pop(stage, None) for stage in gone])
    page = Page(written(copy))
    ids = {attributes.get("id") for attributes in page.of("section")}
    assert ids.isdisjoint(gone)
    assert bool(page.of("iframe")) == ("compress" not in gone)


def test_a_failed_run_gets_a_report_that_says_why(copy: Path) -> None:
    shutil.rmtree(copy / "05_inspect")
    runcard.update(copy, lambda card: card.update(status="failed", error="sfm failed: too few photographs"))
    runcard.update_stage(copy, "inspect", status="failed", error="no space left")
    text = written(copy)
    assert "sfm failed: too few photographs" in text
    assert "no space left" in text


def test_a_drawing_that_fails_leaves_its_reason_and_the_rest(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run) -> Figure:
        raise ValueError(f"odd data {HOSTILE}")

    bad = drawings.Drawing("train", "A title", "what there is", broken)
    monkeypatch.setattr(drawings, "DRAWINGS", (bad, *drawings.DRAWINGS))
    page = Page(written(copy))
    assert any("could not be drawn: ValueError: odd data" in text for text in page.texts["p"])
    assert page.of("iframe")


def test_a_drawing_of_what_there_is_not_is_left_out(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = drawings.Drawing("train", "Nothing", "nothing", lambda run: None)
    monkeypatch.setattr(drawings, "DRAWINGS", (none,))
    assert drawings.draw_all(copy, ["train"]) == {"train": []}


def test_training_is_shown_on_the_way_and_with_matched_colours(root: Path) -> None:
    page = Page((root / "report.html").read_text())
    metrics = runcard.read(root)["stages"]["train"]["metrics"]
    assert any("One view on the way" in image["alt"] for image in page.of("img"))
    assert "held-out cc-PSNR, colours matched [dB]" in page.texts["dt"]
    assert facts.number(metrics["cc_psnr_heldout"]) in page.texts["dd"]
    tile = facts.tiles(runcard.read(root))[0]
    assert tile.note.endswith(f"cc-PSNR {metrics['cc_psnr_heldout']:.2f} dB")


def test_cost_is_shown_where_it_is_known(root: Path) -> None:
    card = runcard.read(root)
    assert facts.tiles(card)[-1].label == "time"
    runcard.price(card, 3600.0)
    assert facts.tiles(card)[-1] == facts.Tile(
        "cost", f"${facts.total_seconds(card):.2f}", "at $3600 an hour"
    )
    card["price"] = {"date": "2026-11-21"}
    card["estimate"] = {"seconds": {"low": 60.0, "high": 125.0}, "usd": {"low": 1.0, "high": 2.5}}
    time, cost = facts.tiles(card)[-2:]
    assert time.note.endswith("cores, 1 min 00 s to 2 min 05 s expected")
    assert cost.note == "at $3600 an hour (2026-11-21), $1.00 to $2.50 expected"


def test_without_a_run_card_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"no run\.json"):
        report.write_report(tmp_path)


def noise(rng: np.random.Generator, side: int) -> ViewPicture:
    photo = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return ViewPicture(
        "x", 20.0, 0.5, photo, photo[::-1], rng.uniform(0, 64, (side, side)).astype(np.float32)
    )


@pytest.mark.parametrize("budget", [0, 30_000, 200_000, 10_000_000])
def test_held_out_views_fit_whatever_they_show(budget: int) -> None:
    rng = np.random.default_rng(0)
    rows = fit_rows([noise(rng, 700) for _ in range(3)], budget)
    assert sum(row.bytes for row in rows) <= budget
    assert len(rows) == (3 if budget == 10_000_000 else len(rows))
    assert bool(rows) == (budget >= 200_000)


def test_drawings_shrink_together_until_they_fit(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def confetti(run) -> Figure:
        figure = Figure(figsize=(10, 10))
        figure.figimage(np.random.default_rng(0).random((1300, 1300, 3)))
        return figure

    many = [
        drawings.Drawing("train", f"number {i}", "confetti", confetti, photographic=True) for i in range(2)
    ]
    monkeypatch.setattr(drawings, "DRAWINGS", tuple(many))
    pictures = drawings.draw_all(copy, ["train"])["train"]
    assert sum(len(p.url) for p in pictures) <= drawings.PICTURE_SHARE
    assert all(p.url and p.width > 900 for p in pictures), "shown as large as before"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (48.3, "48 s"), (83.2, "1 min 23 s"), (7260, "2 h 01 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert facts.duration(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"), [(999, "999 B"), (1818980, "1.82 MB"), (31_654_763, "31.7 MB"), (2.5e9, "2.5 GB")]
)
def test_sizes(n: float, text: str) -> None:
    assert facts.size(n) == text


@pytest.mark.browser
def test_offline_the_report_shows_the_splat_which_turns(root: Path) -> None:
    with browser(1000, 720) as context:
        tab = open_file(context, root / "report.html")
        frame = tab.page.wait_for_selector("iframe").content_frame()
        wait_until_shown(frame)
        box = tab.page.locator("iframe").bounding_box()
        part = {
            "x": box["x"] + 40,
            "y": box["y"] + 40,
            "width": box["width"] - 80,
            "height": box["height"] - 140,
        }
        seen = settled(tab, part)
        tab.page.wait_for_timeout(1000)
        again = picture(tab, part)
        assert seen.std() > 20, "the splat is there"
        assert difference(seen, again) < 0.05

        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        tab.page.mouse.move(x, y)
        tab.page.mouse.wheel(0, 50)
        tab.page.wait_for_timeout(500)
        assert tab.page.evaluate("scrollY") > 0, (
            "the wheel belongs to the page until the viewer is taken in hand"
        )
        tab.page.evaluate("scrollTo(0, 0)")
        tab.page.wait_for_timeout(300)

        drag(tab, x, y, 160, 0)
        turned = settled(tab, part)
        assert difference(seen, turned) > 5
        tab.page.mouse.wheel(0, 120)
        assert difference(turned, settled(tab, part)) > 2, "now the wheel zooms"
        assert tab.page.evaluate("scrollY") == 0
    assert tab.requests == []
    assert tab.errors == []


@pytest.mark.browser
def test_behind_a_path_prefix_the_report_asks_for_nothing_else(root: Path, tmp_path: Path) -> None:
    """As behind SageMaker's and Jupyter's proxies, whose addresses have a prefix that the page knows not."""
    place = tmp_path / "proxy" / "8890"
    place.mkdir(parents=True)
    shutil.copy(root / "report.html", place)
    with served(tmp_path) as site, browser(1000, 720, offline=False) as context:
        tab = open_address(context, f"{site}/proxy/8890/report.html")
        wait_until_shown(tab.page.wait_for_selector("iframe").content_frame())
        box = tab.page.locator("iframe").bounding_box()
        seen = settled(tab, {**box, "x": box["x"] + 40, "width": box["width"] - 80})
        assert seen.std() > 20
    assert (tab.requests, tab.errors) == ([], [])


@pytest.mark.browser
def test_the_report_fits_a_telephone_and_paper_and_the_dark(root: Path, tmp_path: Path) -> None:
    with browser(390, 700) as context:
        tab = open_file(context, root / "report.html")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
        light = tab.page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor")
        tab.page.emulate_media(color_scheme="dark")
        assert tab.page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") != light
        tab.page.emulate_media(media="print", color_scheme="light")
        assert not tab.page.locator("iframe").is_visible()
        assert tab.page.locator(".splat-viewer img").is_visible(), "on paper the poster stands in"
