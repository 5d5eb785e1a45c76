"""A run folder and its prefix: what a stage left is kept, what is finished is not done again."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from aws_standins import make_run, tree, use

from spaceport_lab import files
from spaceport_lab.aws.client import client
from spaceport_lab.aws.runs import (
    RunStore,
    check_stages,
    drain,
    is_intermediate,
    read_complete,
)
from spaceport_lab.errors import InputError, StoreCorruptError, StoreMissingError

_numbers = itertools.count()


@pytest.fixture
def output(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket's prefix of runs."""
    use(monkeypatch, moto)
    monkeypatch.delenv("SPACEPORT_KMS_KEY", raising=False)
    name = f"runs-{next(_numbers)}"
    client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return f"s3://{name}/runs/"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_run(tmp_path / "site" / "runs" / "site-1")


def sync_run(root: Path, output: str, complete: bool = False):
    return RunStore(output, root.name).sync(root, complete)


def restore_run(output: str, job: str, root: Path):
    return RunStore(output, job).restore(root)


def keys(output: str) -> set[str]:
    bucket = output.split("/")[2]
    page = client("s3").list_objects_v2(Bucket=bucket)
    return {entry["Key"].removeprefix("runs/site-1/") for entry in page.get("Contents", ())}


def sent(root: Path) -> set[str]:
    return set(tree(root)) - {"progress.json"}


def test_after_each_stage_and_at_the_end(output: str, root: Path) -> None:
    store = RunStore(output, "site-1")
    store.check()
    assert drain(store.restore(root)).n == 0
    first = drain(store.sync(root))
    assert first.n == len(sent(root))
    assert keys(output) == sent(root)
    assert read_complete(output, "site-1") is None
    make_run(root, ("train",))
    second = drain(store.sync(root))
    assert set(second.left_out) == set()
    assert second.n == 4
    (root / "report.html").write_text("<p>")
    last = drain(store.sync(root, complete=True))
    assert (last.n, last.complete) == (1, True)
    assert read_complete(output, "site-1") == sorted(sent(root))
    assert keys(output) == sent(root) | {"_SUCCESS.json"}


def test_what_was_seen_is_not_asked_for_again(
    output: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RunStore(output, "site-1")
    drain(store.sync(root))
    from spaceport_lab.aws import uploading

    def never(*_: object) -> str:
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr(uploading, "checksum", never)
        assert drain(store.sync(root)).n == 0
    assert drain(RunStore(output, "site-1").sync(root)).n == 0


def test_a_run_goes_on_elsewhere(output: str, root: Path, tmp_path: Path) -> None:
    drain(sync_run(root, output))
    elsewhere = tmp_path / "other" / "runs" / "site-1"
    report = drain(restore_run(output, "site-1", elsewhere))
    assert report.n == len(sent(root))
    assert tree(elsewhere) == {n: b for n, b in tree(root).items() if n != "progress.json"}
    assert check_stages(elsewhere) == {}


def test_what_is_here_is_not_overwritten(output: str, root: Path, tmp_path: Path) -> None:
    drain(sync_run(make_run(root, ("train",)), output))
    here = make_run(tmp_path / "here" / "runs" / "site-1", ("ingest",))
    (here / "run.json").write_text('{"newer": 1}')
    (here / "01_ingest" / "photos.json").write_text("changed, and none of the store's business")
    (here / "02_sfm").mkdir()
    (here / "02_sfm" / "registration.json").write_text("of an attempt that broke off")
    (here / "01_ingest" / "images" / "a.jpg").unlink()
    report = drain(restore_run(output, "site-1", here))
    assert (here / "run.json").read_text() == '{"newer": 1}'
    assert not (here / "01_ingest" / "images" / "a.jpg").exists()
    assert (here / "02_sfm" / "registration.json").read_text() == "{}"
    assert (here / "03_train" / "stage.json").exists()
    # The stage that was damaged here before is found out all the same.
    assert set(report.left_out) == {"01_ingest"}


def test_a_half_trained_stage_comes_with_its_checkpoint(output: str, root: Path, tmp_path: Path) -> None:
    make_run(root, ("train",))
    (root / "03_train" / "stage.json").unlink()
    drain(sync_run(root, output))
    back = tmp_path / "b" / "runs" / "site-1"
    drain(restore_run(output, "site-1", back))
    assert (back / "03_train" / "checkpoint.pt").read_bytes() == b"c" * 500
    (back / "03_train" / "checkpoint.pt").write_bytes(b"newer")
    drain(restore_run(output, "site-1", back))
    assert (back / "03_train" / "checkpoint.pt").read_bytes() == b"newer"


def test_a_torn_stage_runs_again(output: str, root: Path, tmp_path: Path) -> None:
    """Another sfm broke off on its way to the prefix: the stage.json of the one before stands over it."""
    drain(sync_run(root, output))
    bucket = output.split("/")[2]
    client("s3").put_object(Bucket=bucket, Key="runs/site-1/02_sfm/registration.json", Body=b"[1]")
    back = tmp_path / "b" / "runs" / "site-1"
    report = drain(restore_run(output, "site-1", back))
    assert "registration.json is not what" in report.left_out["02_sfm"]
    assert not (back / "02_sfm" / "stage.json").exists()
    assert (back / "01_ingest" / "stage.json").exists()


@pytest.mark.parametrize("seal", ["", "[]", '{"outputs": 3}', '{"outputs": {"gone": "0"}}', "\x00"])
def test_seals_that_cannot_be_trusted(root: Path, seal: str) -> None:
    (root / "02_sfm" / "stage.json").write_text(seal)
    assert set(check_stages(root)) == {"02_sfm"}
    assert not (root / "02_sfm" / "stage.json").exists()
    assert check_stages(root) == {}


def test_what_a_finished_stage_no_longer_has_goes(output: str, root: Path) -> None:
    drain(sync_run(root, output))
    (root / "01_ingest" / "images" / "b.jpg").unlink()
    (root / "notebooks" / "01_ingest.ipynb").unlink()
    make_run(root, ("train",))
    (root / "02_sfm" / "stage.json").unlink()
    (root / "02_sfm" / "registration.json").unlink()
    report = drain(sync_run(root, output))
    assert report.n_removed == 1
    assert "01_ingest/images/b.jpg" not in keys(output)
    # A stage under way, and what is no stage, may only be not here yet.
    assert {"02_sfm/registration.json", "notebooks/01_ingest.ipynb"} <= keys(output)


def test_a_complete_run_may_lose_its_intermediates_but_nothing_else(
    output: str, root: Path, tmp_path: Path
) -> None:
    make_run(root, ("train", "compress", "inspect"), "succeeded")
    drain(sync_run(root, output, complete=True))
    bucket, store = output.split("/")[2], client("s3")
    for name in sent(root):
        tags = store.get_object_tagging(Bucket=bucket, Key=f"runs/site-1/{name}")["TagSet"]
        assert bool(tags) == is_intermediate(name)
    assert is_intermediate("03_train/checkpoint.pt")
    assert not any(map(is_intermediate, ("03_train/splat.ply", "run.json", "04_compress/splat.sog")))
    for name in filter(is_intermediate, sent(root)):
        store.delete_object(Bucket=bucket, Key=f"runs/site-1/{name}")
    back = tmp_path / "b" / "runs" / "site-1"
    report = drain(restore_run(output, "site-1", back))
    assert set(tree(back)) == {n for n in sent(root) if not is_intermediate(n)} - {
        "01_ingest/stage.json",
        "02_sfm/stage.json",
    }
    assert "expired" in report.left_out["03_train/checkpoint.pt"]
    store.delete_object(Bucket=bucket, Key="runs/site-1/04_compress/splat.sog")
    with pytest.raises(StoreCorruptError, match=r"splat\.sog"):
        drain(restore_run(output, "site-1", tmp_path / "c" / "runs" / "site-1"))


def test_a_run_begun_anew_takes_its_marker_away(output: str, root: Path) -> None:
    drain(sync_run(root, output, complete=True))
    files.write_json(root / "run.json", {"status": "running"})
    drain(sync_run(root, output))
    assert "_SUCCESS.json" not in keys(output)
    body = client("s3").get_object(Bucket=output.split("/")[2], Key="runs/site-1/run.json")["Body"].read()
    assert json.loads(body) == {"status": "running"}


def test_a_bad_output_is_found_out_before_the_run(output: str) -> None:
    with pytest.raises(InputError):
        RunStore("runs", "site-1")
    with pytest.raises(InputError):
        RunStore(output, "../site-1")
    with pytest.raises(StoreMissingError):
        RunStore("s3://no-such-bucket-2/runs", "site-1").check()
    RunStore(output, "site-1").check()
    assert keys(output) == set()
