"""Comparing runs: what is read whatever its state, what differs, page, notebook and command."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import browser
import nbformat
import numpy as np
import papermill
import pytest
from nbconvert import HTMLExporter
from PIL import Image
from typer.testing import CliRunner

from spaceport_lab import cli, comparing, runcard
from spaceport_lab.comparing import table
from spaceport_lab.errors import InputError
from spaceport_lab.params import resolve
from spaceport_lab.resources import notebooks_dir

VIEWS = ("a.jpg", "b.jpg")


def make_run(
    root: Path,
    *overrides: str,
    psnr: float = 25.0,
    pace: float = 1.0,
    status: str = "succeeded",
    error: str | None = None,
    changes: list | None = None,
    views: tuple[str, ...] = VIEWS,
    shade: int = 100,
) -> Path:
    """A run folder as the pipeline leaves it: card, evaluations, pictures of held-out views."""
    train = {
        "status": status, "seconds": 50 * pace, "peak_rss_mb": 900.0, "error": error,
        "metrics": {} if status == "failed" else {
            "psnr_heldout": psnr, "ssim_heldout": 0.8, "cc_psnr_heldout": psnr + 0.1, "n_gaussians": 5000,
            "steps": 300, "stopped_by": "max_steps", "verdicts": ["Few views: <3>."],
        } | ({"changes": changes} if changes else {}),
    }  # fmt: skip
    packed = {"bytes": 100_000, "ply_bytes": 1_500_000, "ratio": 15.0, "n_gaussians": 5000}
    compress = {"status": status, "seconds": 5.0, "peak_rss_mb": 500.0, "metrics": packed}
    stages = {"train": train} if status == "failed" else {"train": train, "compress": compress}

    def fill(card: dict) -> None:
        card.update(params=resolve((), overrides).card(), status=status, error=error, stages=stages)

    runcard.update(root, fill)
    records = [
        {"kind": "eval", "step": 100 * i, "seconds": 10.0 * i * pace, "psnr": psnr - 3 + i} for i in (1, 2, 3)
    ]
    (root / "03_train").mkdir()
    lines = [json.dumps(r) for r in (records[:1] if status == "failed" else records)]
    (root / "03_train" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    if views:
        folder = root / "05_inspect" / "views"
        folder.mkdir(parents=True)
        entries = []
        for name in views:
            pictures = {kind: f"views/{name[0]}_{kind}.jpg" for kind in ("photo", "render", "error")}
            for place in pictures.values():
                Image.new("RGB", (64, 48), (shade, 90, 90)).save(folder.parent / place)
            entries.append({"name": name, "psnr": psnr - ord(name[0]), "ssim": 0.8, "pictures": pictures})
        (folder.parent / "views.json").write_text(json.dumps({"reason": "", "views": entries}))
    return root


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind; changed by no test."""
    scene = tmp_path_factory.mktemp("data") / "mound"
    runs = scene / "runs"
    make_run(runs / "base", psnr=25.0)
    make_run(runs / "wide", "train.grow_ratio=2", "train.max_steps=9000", psnr=26.0, pace=2.0, shade=200)
    change = [{"step": 300, "values": {"grow_grad2d": 4e-4}}, {"step": 900, "values": {"grow_grad2d": 2e-4}}]
    make_run(runs / "tuned", psnr=25.5, changes=change, views=("b.jpg", "c.jpg"))
    make_run(runs / "lost", status="failed", error="memory was full.\n  try: less", views=())
    (runs / "torn").mkdir()
    (runs / "torn" / "run.json").write_text('{"job": ')
    (runs / "stray").mkdir()
    return scene


def by_name(compared: comparing.Comparison) -> dict[str, comparing.Run]:
    return {run.name: run for run in compared.runs}


def test_a_scene_gives_all_its_runs_and_names_what_it_cannot_read(scene: Path) -> None:
    compared = comparing.compare([scene])
    assert set(by_name(compared)) == {"base", "wide", "tuned", "lost"}
    assert {path.name: reason.split(":")[0] for path, reason in compared.unreadable} == {
        "torn": "run.json is damaged",
        "stray": "neither a run card nor a stage in it",
    }
    assert compared.notes()[0] == "2 folders could not be read:"
    assert compared.scene_dirs == [scene]


def test_the_same_folder_twice_and_folders_that_are_none(scene: Path, tmp_path: Path) -> None:
    base = scene / "runs" / "base"
    compared = comparing.compare([base, base / ".." / "base", tmp_path / "nowhere", tmp_path])
    assert [run.name for run in compared.runs] == ["base"]
    assert [reason for _, reason in compared.unreadable] == ["there is no such folder", "no run and no scene"]
    with pytest.raises(InputError, match="there is no run to compare"):
        comparing.compare([tmp_path])


def test_jobs_of_one_name_in_two_scenes_are_told_apart(scene: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other" / "runs" / "base")
    compared = comparing.compare([scene / "runs" / "base", other])
    assert [run.name for run in compared.runs] == ["mound/base", "other/base"]
    assert compared.target() is None, "seconds of two scenes say nothing about each other"
    assert compared.shared_view().name == "", "a view of another scene is another view"


def test_a_run_that_failed_says_why_and_keeps_what_it_has(scene: Path) -> None:
    lost = by_name(comparing.compare([scene]))["lost"]
    assert (lost.status, lost.reason) == ("failed", "train: memory was full.")
    assert lost.figures == {"seconds_train": 50.0, "seconds": 50.0, "peak_rss_mb": 900.0}
    assert len(lost.curve) == 1


@pytest.mark.parametrize(
    ("name", "content", "noted"),
    [
        ("03_train/metrics.jsonl", '{"kind": "eval", "psnr": 20}\n', "curve"),
        ("03_train/metrics.jsonl", "{no json\n", "curve"),
        ("05_inspect/views.json", '{"views": 3}', "pictures"),
    ],
)
def test_what_is_damaged_in_a_run_is_noted_and_costs_nothing_else(
    tmp_path: Path, name: str, content: str, noted: str
) -> None:
    root = make_run(tmp_path / "s" / "runs" / "r")
    (root / name).write_text(content)
    (run,) = comparing.compare([root]).runs
    assert [note.split(":")[0] for note in run.notes] == [noted]
    assert run.figures["psnr"] == 25.0


def test_cards_of_another_shape(tmp_path: Path) -> None:
    root = make_run(tmp_path / "s" / "runs" / "r")
    card = json.loads((root / "run.json").read_text())
    card["stages"]["train"]["metrics"] |= {"psnr_heldout": "high", "changes": [3]}
    card["params"] = {"train": {"seed": 7}}
    (root / "run.json").write_text(json.dumps(card))
    compared = comparing.compare([root, make_run(tmp_path / "s" / "runs" / "q")])
    assert {n.split(":")[0] for n in compared.runs[0].notes} == {"parameters", "changes"}
    assert "high" in comparing.html(compared)


def test_only_differences_are_listed_and_changes_while_training_are_marked(scene: Path) -> None:
    compared = comparing.compare([scene])
    names = [run.name for run in compared.runs]
    found = {d.name: d for d in compared.differences()}
    assert set(found) == {"train.grow_ratio", "train.max_steps", "train.grow_grad2d"}
    ratio = dict(zip(names, found["train.grow_ratio"].values, strict=True))
    assert (ratio["base"], ratio["wide"]) == ("1", "2")
    tuned = names.index("tuned")
    grad = found["train.grow_grad2d"]
    assert grad.values[tuned] == "0 → 0.0004 from step 300 → 0.0002 from step 900"
    assert [i for i, changed in enumerate(grad.changed) if changed] == [tuned]
    same = comparing.compare([scene / "runs" / "base", scene / "runs" / "lost"])
    assert same.differences() == []


def test_the_shared_view_is_the_one_most_runs_show(scene: Path) -> None:
    shared = comparing.compare([scene]).shared_view()
    assert shared.name == "b.jpg"
    assert set(shared.views) == {"base", "wide", "tuned"}
    assert shared.note == "b.jpg is not shown by lost"
    two = comparing.compare([scene / "runs" / "base", scene / "runs" / "wide"]).shared_view()
    assert (two.name, two.note) == ("b.jpg", ""), "of two that both show, the worse one"
    alone = comparing.compare([scene / "runs" / "base", scene / "runs" / "lost"]).shared_view()
    assert alone.note == "no two of these runs show the same held-out view"


def test_time_to_quality_is_asked_for_where_all_that_ended_come(scene: Path) -> None:
    compared = comparing.compare([scene])
    assert compared.target() == 25.0
    seconds = {run.name: table.figures(compared, run).get("reach") for run in compared.runs}
    assert seconds == {"base": 30.0, "tuned": 30.0, "wide": 40.0, "lost": None}
    columns, rows = table.columns(compared), table.rows(compared)
    heads = [column.label for column in columns]
    assert "time to 25 dB" in heads
    assert "cost" not in heads, "no card has one"
    best = {
        column.label: compared.runs[i].name
        for i, row in enumerate(rows)
        for column, cell in zip(columns, row, strict=True)
        if cell.best
    }
    assert best["PSNR [dB]"] == "wide"
    assert "SSIM" not in best, "all are the same"


class Shape(html.parser.HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_holds_all_and_asks_for_nothing(scene: Path, tmp_path: Path) -> None:
    path = comparing.write_html(tmp_path / "page.html", comparing.compare([scene]))
    text = path.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    images = [attrs for tag, attrs in Shape(text).tags if tag == "img" and attrs.get("src")]
    assert len([i for i in images if i["alt"].startswith("b.jpg: ")]) == 4, "three renders and the photograph"
    assert all(image["alt"] for image in images)
    assert "Few views: &lt;3&gt;." in text
    for said in ("changed while training", "2 folders could not be read", "b.jpg is not shown by lost"):
        assert said in text
    assert path.stat().st_size < 600_000


def test_json(scene: Path, tmp_path: Path) -> None:
    content = json.loads(comparing.write_json(tmp_path / "c.json", comparing.compare([scene])).read_text())
    runs = {run["name"]: run for run in content["runs"]}
    assert runs["wide"]["figures"]["psnr"] == 26.0
    assert runs["base"]["curve"][0] == [10.0, 100, 23.0]
    assert len(content["unreadable"]) == 2
    assert content["view"]["name"] == "b.jpg"


def test_parts_for_a_notebook_have_text_too(scene: Path) -> None:
    compared = comparing.compare([scene])
    for part in (
        comparing.runs_table(compared), comparing.differences_table(compared), comparing.view_swipe(compared),
    ):  # fmt: skip
        assert "tuned" in repr(part)
        assert "tuned" in part._repr_html_()
    alone = comparing.compare([scene / "runs" / "base"])
    assert "same parameters" in repr(comparing.differences_table(alone))
    assert "no two" in repr(comparing.view_swipe(alone))


def test_controls_keep_their_keys_in_a_notebook(scene: Path) -> None:
    """JupyterLab takes arrow keys and Enter for its own commands where the element itself does not say so."""
    compared = comparing.compare([scene])
    part = comparing.runs_table(compared).html + comparing.view_swipe(compared).html
    controls = [attrs for tag, attrs in Shape(part).tags if tag in ("button", "input", "select")]
    assert len(controls) > 10
    assert all(attrs.get("data-lm-suppress-shortcuts") == "true" for attrs in controls)


def test_a_notebook_without_runs_takes_the_bench(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "data" / "sample" / "runs" / "bench")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert [run.name for run in comparing.gather("").runs] == ["bench"]
    text = f" {scene / 'runs' / 'base'} , {scene / 'runs' / 'wide'},"
    assert [run.name for run in comparing.gather(text).runs] == ["base", "wide"]


def test_the_notebook_runs_under_papermill_and_exports(scene: Path, tmp_path: Path) -> None:
    done = tmp_path / "91_compare.ipynb"
    papermill.execute_notebook(
        notebooks_dir() / "91_compare.ipynb", done, {"runs": str(scene)}, cwd=tmp_path, progress_bar=False,
        kernel_name="python3",
    )  # fmt: skip
    notebook = nbformat.read(done, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [o for o in outputs if o.output_type in ("stream", "error")] == []
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    page = HTMLExporter(embed_images=True).from_notebook_node(notebook)[0]
    assert page.count("image/webp") == 4, "the view of three runs and its photograph"


@pytest.mark.browser
def test_the_page_in_a_browser(scene: Path, tmp_path: Path) -> None:
    path = comparing.write_html(tmp_path / "page.html", comparing.compare([scene]))
    with browser.browser() as context:
        tab = browser.open_file(context, path)
        page = tab.page
        first = page.locator("#runs table")

        def names() -> list[str]:
            return page.locator("#runs tbody th").all_inner_texts()

        first.get_by_role("button", name="PSNR [dB]", exact=True).click()
        assert names() == ["wide", "tuned", "base", "lost"], "the best first, those without a figure last"
        first.get_by_role("button", name="PSNR [dB]", exact=True).click()
        assert names() == ["base", "tuned", "wide", "lost"]
        first.get_by_role("button", name="run", exact=True).click()
        assert names() == ["base", "lost", "tuned", "wide"]

        selects = page.locator(".cmp-choose select")
        labels = selects.nth(0).locator("option").all_inner_texts()
        selects.nth(0).select_option(str([n.split(",")[0] for n in labels].index("base")))
        selects.nth(1).select_option(str([n.split(",")[0] for n in labels].index("wide")))
        box = page.locator(".cmp-frame").bounding_box()
        place = {"x": box["x"] + 0.6 * box["width"], "y": box["y"] + 20, "width": 40, "height": 40}
        page.locator(".cmp-frame").scroll_into_view_if_needed()
        page.locator(".cmp-frame input").focus()
        box = page.locator(".cmp-frame").bounding_box()
        place |= {"x": box["x"] + 0.6 * box["width"], "y": box["y"] + 20}
        before = browser.picture(tab, place)
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        after = browser.picture(tab, place)
        assert np.median(before[..., 0]) > 180, "right of the edge is the brighter run"
        assert np.median(after[..., 0]) < 120, "the edge has passed: now it is the darker one"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert (tab.requests, tab.errors) == ([], [])


def test_command(scene: Path, tmp_path: Path) -> None:
    words = [str(scene), "--html", str(tmp_path / "c.html"), "--json", str(tmp_path / "c.json")]
    result = CliRunner().invoke(cli.app, ["compare", *words])
    assert result.exit_code == 0, result.output
    for said in ("26.00", "PSNR [dB]", "memory was full", "run.json is damaged", "* changed while training"):
        assert said in result.output
    assert (tmp_path / "c.html").exists()
    assert (tmp_path / "c.json").exists()
    result = CliRunner().invoke(cli.app, ["compare", str(tmp_path)])
    assert isinstance(result.exception, InputError)
