"""Stage keys, manifests, and what a stage may ask for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spaceport_lab import workspace
from spaceport_lab.errors import InputError, QualityGateError, WorkspaceError
from spaceport_lab.params import SCHEMAS, CompressParams, IngestParams, SfmParams, TrainParams
from spaceport_lab.workspace import StageRun


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "site" / "runs" / "job-1"
    folder.mkdir(parents=True)
    return folder


def finish(root: Path, stage: str, content: str = "x") -> StageRun:
    run = StageRun(root, stage)
    run.dir.mkdir(exist_ok=True)
    run.output("made.txt").write_text(content)
    run.metrics["n_photos"] = 3
    workspace.write_manifest(run, SCHEMAS[stage]())
    return run


def test_names(root: Path) -> None:
    run = StageRun(root, "train")
    assert (run.dir.name, run.job, run.scene_dir.name) == ("03_train", "job-1", "site")


def test_input_says_which_notebook_is_missing(root: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"run notebooks/02_sfm\.ipynb first"):
        StageRun(root, "train").input("sfm", "sparse")


def test_input_of_a_finished_stage(root: Path) -> None:
    (root.parent.parent / "images").mkdir()
    finish(root, "ingest")
    run = StageRun(root, "sfm")
    assert run.has("ingest")
    assert run.input("ingest", "made.txt").read_text() == "x"
    with pytest.raises(WorkspaceError, match=r"needs other\.txt of stage ingest"):
        run.input("ingest", "other.txt")


def test_an_output_that_was_not_made_is_no_finished_stage(root: Path) -> None:
    run = StageRun(root, "train")
    run.dir.mkdir()
    run.output("splat.ply")
    with pytest.raises(WorkspaceError, match=r"did not make.*\n.*splat\.ply"):
        workspace.write_manifest(run, TrainParams())
    assert not (run.dir / "stage.json").exists()


def test_the_key_follows_params_and_inputs(root: Path) -> None:
    (root.parent.parent / "images").mkdir()
    finish(root, "ingest")
    run = StageRun(root, "sfm")

    def key(params: SfmParams) -> str:
        return workspace.stage_key("sfm", params, workspace.gather_inputs(run, params))

    first = key(SfmParams())
    assert key(SfmParams(run_dir="elsewhere", interactive=True, log_every=7)) == first
    assert key(SfmParams(train_size=640)) != first
    finish(root, "ingest", content="other photographs")
    assert key(SfmParams()) != first


def test_the_key_follows_the_source_not_its_path(root: Path, tmp_path: Path) -> None:
    run = StageRun(root, "ingest")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_text("photo")
    keys = {
        json.dumps(workspace.gather_inputs(run, IngestParams(source=str(tmp_path / name)))) for name in "ab"
    }
    assert len(keys) == 1
    (tmp_path / "b" / "1.jpg").write_text("another")
    assert json.dumps(workspace.gather_inputs(run, IngestParams(source=str(tmp_path / "b")))) not in keys


def test_a_source_that_is_not_there(root: Path) -> None:
    with pytest.raises(InputError, match=r"compress\.ply does not exist"):
        workspace.gather_inputs(StageRun(root, "compress"), CompressParams(ply="/nowhere.ply"))


def test_done_needs_the_key_and_the_outputs(root: Path) -> None:
    (root.parent.parent / "images").mkdir()
    run = finish(root, "ingest")
    key = workspace.stage_key("ingest", IngestParams(), workspace.gather_inputs(run, IngestParams()))
    assert workspace.is_done(run, key)
    assert not workspace.is_done(run, "other")
    (run.dir / "made.txt").unlink()
    assert not workspace.is_done(run, key)


def test_a_torn_manifest_is_no_finished_stage(root: Path) -> None:
    (root / "01_ingest").mkdir()
    (root / "01_ingest" / "stage.json").write_text('{"key": ')
    assert workspace.read_manifest(root / "01_ingest") is None


def test_gates_and_warnings_are_kept(root: Path) -> None:
    run = StageRun(root, "sfm")
    run.warn("few points")
    run.warn("few points")
    run.gate(True, QualityGateError("fine"))
    run.gate(False, QualityGateError("too few"))
    assert run.warnings == ["few points"]
    assert [str(e) for e in run.failed_gates] == ["too few."]


def test_what_was_steered_by_hand_is_never_taken_for_what_its_parameters_say(root: Path) -> None:
    (root.parent.parent / "images").mkdir()
    run = finish(root, "ingest")
    params = SCHEMAS["ingest"]()
    key = workspace.stage_key("ingest", params, workspace.gather_inputs(run, params))
    assert workspace.is_done(run, key)
    run.steered = {"changes": [], "stopped": 3}
    workspace.write_manifest(run, params)
    assert not workspace.is_done(run, key)
    again = workspace.read_manifest(run.dir)["key"]
    run.steered = {"changes": [], "stopped": 4}
    workspace.write_manifest(run, params)
    assert workspace.read_manifest(run.dir)["key"] != again


def test_runs_share_a_stage_by_a_link(root: Path, tmp_path: Path) -> None:
    (root.parent.parent / "images").mkdir()
    finish(root, "ingest")
    beside, elsewhere = root.parent / "beside", tmp_path / "elsewhere"
    for folder in (beside, elsewhere, beside):  # again does no harm
        assert workspace.share_stage(root, folder, "ingest") == folder / "01_ingest"
        assert StageRun(folder, "sfm").input("ingest").resolve() == (root / "01_ingest").resolve()
    assert not (beside / "01_ingest").readlink().is_absolute(), "the scene may be moved"
    assert (elsewhere / "01_ingest").readlink().is_absolute()
    (tmp_path / "own" / "01_ingest").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match="of its own"):
        workspace.share_stage(root, tmp_path / "own", "ingest")
