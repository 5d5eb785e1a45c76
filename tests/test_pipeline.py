"""Requests, job names and finished work, without running a notebook."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from spaceport_lab import runcard, workspace
from spaceport_lab.errors import InputError, ParamsError, WorkspaceError
from spaceport_lab.naming import JOB_NAME, STAGE_SUFFIX, slug
from spaceport_lab.params import SCHEMAS, STAGES, IngestParams, SfmParams
from spaceport_lab.pipeline import make_request
from spaceport_lab.pipeline.display import Display, headline, live_line
from spaceport_lab.pipeline.jobs import adopt_run, open_run, prepare_stage
from spaceport_lab.workspace import StageRun


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def photographs(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1.jpg").write_text("a photograph")
    return folder


def finish(root: Path, stage: str, params: object | None = None, content: str = "x") -> StageRun:
    run = StageRun(root, stage)
    run.dir.mkdir(parents=True, exist_ok=True)
    run.output("made.bin").write_text(content)
    run.output("rows.jsonl").write_text(content)
    run.metrics["n_points"] = 7
    workspace.write_manifest(run, params or SCHEMAS[stage]())
    return run


# -- requests --------------------------------------------------------------------------------------


def test_a_folder_of_photographs(tmp_path: Path, data: Path) -> None:
    named = make_request(photographs(tmp_path / "input"), "full", data, scene="Brighton Beach")
    assert (named.scene, named.scene_dir) == ("brighton-beach", data / "brighton-beach")
    assert named.fixed["ingest"]["source"] == str(tmp_path / "input")
    request = make_request(photographs(tmp_path / "Brighton Beach"), "full", data)
    assert (request.scene, request.stages) == ("brighton-beach", STAGES)
    assert request.fixed == {"ingest": {"source": str(tmp_path / "Brighton Beach")}}


def test_a_scene_folder_and_its_images_are_the_same(data: Path) -> None:
    photographs(data / "My Site" / "images")
    for path in (data / "My Site", data / "My Site" / "images"):
        request = make_request(path, "full", data)
        assert request.scene_dir == data / "My Site"
        assert request.fixed["ingest"]["source"] == str(data / "My Site" / "images")


def test_a_zip_gives_the_scene_its_name(tmp_path: Path, data: Path) -> None:
    (tmp_path / "flight 7.zip").write_bytes(b"PK")
    assert make_request(tmp_path / "flight 7.zip", "full", data).scene_dir == data / "flight-7"


def test_a_run_with_finished_sfm_starts_3dgs(data: Path) -> None:
    photographs(data / "site" / "images")
    older, newer = data / "site" / "runs" / "a", data / "site" / "runs" / "b"
    for root in (older, newer):
        finish(root, "ingest")
        finish(root, "sfm")
        time.sleep(0.01)
    assert make_request(older, "3dgs", data).adopt == older
    request = make_request(data / "site", "3dgs", data)
    assert (request.adopt, request.stages) == (newer, ("train", "compress", "inspect"))


@pytest.mark.parametrize("place", [".", "sparse", "sparse/0"])
def test_a_colmap_folder_starts_3dgs(place: str, tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "colmap"
    (folder / place).mkdir(parents=True)
    (folder / place / "cameras.bin").write_bytes(b"")
    request = make_request(folder, "3dgs", data)
    assert request.stages == ("sfm", "train", "compress", "inspect")
    assert request.fixed == {"sfm": {"import_path": str(folder)}}


def test_a_ply_or_a_trained_folder_starts_compression(tmp_path: Path, data: Path) -> None:
    point_cloud = tmp_path / "garden" / "point_cloud"
    for iteration in (7000, 30000):
        (point_cloud / f"iteration_{iteration}").mkdir(parents=True)
        (point_cloud / f"iteration_{iteration}" / "point_cloud.ply").write_text("ply")
    request = make_request(tmp_path / "garden", "compression", data)
    assert "iteration_30000" in request.fixed["compress"]["ply"]
    ply = tmp_path / "bonsai.ply"
    ply.write_text("ply")
    request = make_request(ply, "compression", data)
    assert (request.scene, request.stages) == ("bonsai", ("compress", "inspect"))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("compression", r"(?s)one 3DGS PLY.*no \.ply file"),
        ("3dgs", r"no structure from motion"),
        ("half", r"no steps 'half'"),
    ],
)
def test_nothing_to_start_from(steps: str, message: str, tmp_path: Path, data: Path) -> None:
    with pytest.raises((InputError, ParamsError), match=message):
        make_request(photographs(tmp_path / "site"), steps, data)


def test_several_plys_are_named(tmp_path: Path, data: Path) -> None:
    for name in ("a.ply", "b.ply"):
        (tmp_path / name).write_text("ply")
    with pytest.raises(InputError, match=r"a\.ply, b\.ply"):
        make_request(tmp_path, "compression", data)


def test_a_path_that_is_not_there_and_a_file_that_is_no_zip(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match="nothing at this path"):
        make_request(tmp_path / "nowhere", "full", data)
    (tmp_path / "a.ply").write_text("ply")
    with pytest.raises(InputError, match="a folder or a zip"):
        make_request(tmp_path / "a.ply", "full", data)


@given(st.text())
def test_every_scene_name_becomes_part_of_a_job_name(name: str) -> None:
    assert JOB_NAME.fullmatch(slug(name))
    assert JOB_NAME.fullmatch(f"{slug(name)}-20260101-000000-abcd")


# -- jobs ------------------------------------------------------------------------------------------


def test_the_same_request_is_continued_and_another_is_not(tmp_path: Path, data: Path) -> None:
    request = make_request(photographs(tmp_path / "site"), "full", data)
    first = open_run(request, {"a": 1}, None)
    runcard.update(first, lambda card: card.update(request={"a": 1}))
    assert open_run(request, {"a": 1}, None) == first
    assert len({first, open_run(request, {"a": 2}, None), open_run(request, {"a": 1}, None, new=True)}) == 3


@pytest.mark.parametrize("name", ["Upper", "a_b", "-a", "a-", "", "a" * 42, "../up", "a b", "ä"])
def test_bad_job_names_are_refused(name: str, tmp_path: Path, data: Path) -> None:
    request = make_request(photographs(tmp_path / "site"), "full", data)
    with pytest.raises(ParamsError, match="is not a job name"):
        open_run(request, {}, name)
    assert not (data / "site").exists()


def test_a_job_name_belongs_to_one_scene(tmp_path: Path, data: Path) -> None:
    one = make_request(photographs(tmp_path / "one"), "full", data)
    two = make_request(photographs(tmp_path / "two"), "full", data)
    assert open_run(one, {}, "tuesday") == open_run(one, {}, "tuesday")
    with pytest.raises(WorkspaceError, match="of another scene"):
        open_run(two, {}, "tuesday")


def test_stage_names_follow_the_contract() -> None:
    assert [STAGE_SUFFIX[s] for s in ("sfm", "train", "compress")] == ["sfm", "3dgs", "compression"]


def test_finished_stages_are_found_linked_or_run_again(data: Path) -> None:
    source = str(photographs(data / "site" / "images"))
    params = IngestParams(source=source)
    mine, other = data / "site" / "runs" / "mine", data / "site" / "runs" / "other"
    finish(other, "ingest", params)
    run = StageRun(mine, "ingest")
    assert prepare_stage(run, params) == "reused"
    assert (run.dir / "made.bin").samefile(other / "01_ingest" / "made.bin")
    assert not (run.dir / "rows.jsonl").samefile(other / "01_ingest" / "rows.jsonl"), "it grows in place"
    assert prepare_stage(run, params) == "done"
    assert prepare_stage(run, IngestParams(source=source, min_side=999)) == "todo"
    assert not run.dir.exists()
    assert (other / "01_ingest" / "made.bin").read_text() == "x"


def test_an_unfinished_attempt_is_kept_to_be_resumed(data: Path) -> None:
    params = IngestParams(source=str(photographs(data / "site" / "images")))
    run = StageRun(data / "site" / "runs" / "mine", "ingest")
    run.dir.mkdir(parents=True)
    (run.dir / "checkpoint.pt").write_text("half way")
    assert prepare_stage(run, params) == "todo"
    assert (run.dir / "checkpoint.pt").exists()


def test_changed_photographs_run_everything_again(data: Path) -> None:
    source = photographs(data / "site" / "images")
    root = data / "site" / "runs" / "mine"
    ingest, sfm = IngestParams(source=str(source)), SfmParams()
    finish(root, "ingest", ingest)
    finish(root, "sfm", sfm)
    assert prepare_stage(StageRun(root, "sfm"), sfm) == "done"
    (source / "2.jpg").write_text("one more")
    assert prepare_stage(StageRun(root, "ingest"), ingest) == "todo"
    finish(root, "ingest", ingest, content="with one more")
    assert prepare_stage(StageRun(root, "sfm"), sfm) == "todo"


def test_adopting_a_run_takes_its_earlier_stages(data: Path) -> None:
    photographs(data / "site" / "images")
    donor, root = data / "site" / "runs" / "donor", data / "site" / "runs" / "new"
    finish(donor, "ingest")
    finish(donor, "sfm")
    adopt_run(donor, root, before="train")
    assert StageRun(root, "train").input("sfm", "made.bin").exists()
    entry = runcard.read(root)["stages"]["sfm"]
    assert (entry["status"], entry["reused_from"], entry["metrics"]) == (
        "succeeded",
        "donor",
        {"n_points": 7},
    )


# -- display ---------------------------------------------------------------------------------------


def test_the_live_line() -> None:
    state = {"message": "train", "values": {"loss": 0.05123, "psnr": 25.123, "n_gaussians": 41210}}
    assert live_line(state, 80) == "train  loss 0.0512  psnr 25.12  n_gaussians 41,210  1:20 left"


def test_headlines_leave_out_what_was_not_measured() -> None:
    assert (
        headline("compress", {"bytes": 1000, "ratio": 9.5, "psnr_heldout": None}) == "bytes 1,000  ratio 9.50"
    )


def test_without_a_terminal_the_display_prints_plain_lines(tmp_path: Path) -> None:
    out = io.StringIO()
    display = Display(console=Console(file=out, width=100))
    display.start(tmp_path, ("ingest", "train"))
    display.skipped("ingest", "done", {"n_used": 3, "n_photos": 4})
    display.begin("train")
    display.progress("train", {"step": 1, "total": 9, "message": "train", "values": {}, "time": time.time()})
    display.done("train", 12.3, {"steps": 9}, ["too few views"])
    display.stop()
    text = out.getvalue()
    assert "ingest: already done  n_used 3  n_photos 4" in text
    assert "3dgs: done in 12 s  steps 9" in text
    assert "3dgs: too few views" in text
