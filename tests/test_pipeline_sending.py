"""A run with an output in S3: there whole at its end, and no stage of it runs again on another machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from aws_standins import use
from scenes import make_gaussians

from spaceport_lab import runcard
from spaceport_lab.aws.client import client
from spaceport_lab.aws.runs import read_complete
from spaceport_lab.errors import InputError, StoreDeniedError, StoreMissingError
from spaceport_lab.gaussians import write_ply
from spaceport_lab.pipeline import RunResult, make_request, run_pipeline
from spaceport_lab.pipeline.display import Display
from spaceport_lab.pipeline.sending import Sent


@pytest.fixture
def output(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    use(monkeypatch, moto)
    store = client("s3")
    if not any(bucket["Name"] == "site" for bucket in store.list_buckets()["Buckets"]):
        store.create_bucket(Bucket="site", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return "s3://site/runs"


@pytest.fixture(scope="module")
def ply(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("theirs") / "mound.ply"
    write_ply(path, make_gaussians(400, np.random.default_rng(0)))
    return path


def run(ply: Path, data: Path, output: str) -> RunResult:
    return run_pipeline(make_request(ply, "compression", data), job="mound-1", output=output)


def test_a_run_is_sent_and_goes_on_elsewhere(output: str, ply: Path, tmp_path: Path) -> None:
    first = run(ply, tmp_path / "here", output)
    sent = read_complete(output, "mound-1")
    assert sent is not None
    assert {"run.json", "report.html", "04_compress/splat.sog", "05_inspect/stage.json"} <= set(sent)
    made = (first.root / "04_compress" / "splat.sog").read_bytes()

    shutil.rmtree(tmp_path / "here")
    second = run(ply, tmp_path / "there", output)
    assert (second.root / "04_compress" / "splat.sog").read_bytes() == made
    for stage in ("compress", "inspect"):
        assert second.card["stages"][stage]["ended"] == first.card["stages"][stage]["ended"], "it ran again"
    assert read_complete(output, "mound-1") is not None


def test_what_cannot_be_written_to_is_found_out_before_anything_runs(
    output: str, ply: Path, tmp_path: Path
) -> None:
    with pytest.raises(StoreMissingError):
        run(ply, tmp_path, "s3://no-such-bucket/runs")
    with pytest.raises(InputError):
        run(ply, tmp_path, "https://example.com/runs")
    assert not list(tmp_path.glob("*/runs/*/run.json"))


def test_a_run_whose_end_could_not_be_sent_has_failed(output: str, tmp_path: Path) -> None:
    root = tmp_path / "mound" / "runs" / "mound-2"
    runcard.update(root, lambda card: card.update(status="succeeded"))
    sent = Sent(root, output, Display(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sent.store, "sync", _denied)
        with pytest.raises(StoreDeniedError):
            sent.complete()
        sent.abandon(ValueError("a failure of another kind"))  # and this one is not hidden by a second
    card = json.loads((root / "run.json").read_text())
    assert (card["status"], card["error"]) == ("failed", "nobody may write here any more.")


def _denied(*_args, **_options):
    raise StoreDeniedError("nobody may write here any more")
    yield
