"""The request for a training job: right when it is built, and refused by name when it is spoilt."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_standins import make_run, tree, use
from botocore.stub import Stubber

from spaceport_lab.aws import request, rules, sagemaker
from spaceport_lab.aws.client import client
from spaceport_lab.aws.entry import keep
from spaceport_lab.aws.request import Settings, build, read_settings, training_name
from spaceport_lab.aws.runs import drain
from spaceport_lab.errors import (
    InputError,
    JobConflictError,
    JobUnknownError,
    ParamsError,
    StageError,
    StoreBusyError,
    StoreMissingError,
    WorkspaceError,
)

KEY = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SETTINGS = Settings(
    role="arn:aws:iam::123456789012:role/spaceport-job",
    image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/spaceport-lab:1.0",
    raw="s3://lab-bucket/raw",
    output="s3://lab-bucket/runs/",
    kms_key=KEY,
)


@pytest.fixture
def cloud(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    use(monkeypatch, moto)
    if not any(b["Name"] == "lab-bucket" for b in client("s3").list_buckets()["Buckets"]):
        client("s3").create_bucket(
            Bucket="lab-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
    return moto


def body(**changes: Any) -> dict[str, Any]:
    settings = SETTINGS.model_copy(update=changes)
    return build("site-1", "s3://lab-bucket/raw/site", settings, "full", ["draft"], ["train.max_steps=500"])


def names(request: dict[str, Any]) -> set[str]:
    return {fault.name for fault in rules.validate(request)}


def test_a_request_says_what_was_asked_for() -> None:
    asked = body(tags={"project": "harbour"}, subnets=("subnet-1",), security_groups=("sg-1",))
    assert rules.validate(asked) == []
    assert asked["TrainingJobName"].startswith("site-1-full-")
    assert asked["HyperParameters"] == {
        "job": "site-1", "steps": "full", "presets": "draft", "scene": "site", "train.max_steps": "500",
    }  # fmt: skip
    assert asked["EnableManagedSpotTraining"] is asked["EnableNetworkIsolation"] is True
    assert asked["CheckpointConfig"]["S3Uri"] == "s3://lab-bucket/checkpoints/site-1/"
    assert asked["OutputDataConfig"] == {"S3OutputPath": "s3://lab-bucket/runs/", "KmsKeyId": KEY}
    stopping = asked["StoppingCondition"]
    assert stopping["MaxWaitTimeInSeconds"] >= stopping["MaxRuntimeInSeconds"]
    assert asked["RetryStrategy"] == {"MaximumRetryAttempts": 2}
    assert asked["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert {"Key": "project", "Value": "harbour"} in asked["Tags"]


@pytest.mark.parametrize(
    "changes",
    [
        {"spot": False}, {"retries": 0}, {"kms_key": "alias/aws/s3"}, {"instance_type": "ml.c7i.4xlarge"},
        {"instance_type": "ml.m5.xlarge", "volume_kms_key": KEY}, {"checkpoints": "s3://other-bucket/c"},
        {"instance_type": "ml.g4dn.xlarge", "volume_kms_key": KEY}, {"environment": {"LOG_LEVEL": "DEBUG"}},
        {"image": SETTINGS.image.replace(":1.0", "@sha256:" + "0" * 64)},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_gives_a_request_that_may_be_sent(changes: dict[str, Any]) -> None:
    assert rules.validate(body(**changes)) == []


def test_a_key_for_disks_only_where_there_are_disks_for_it() -> None:
    own = body(instance_type="ml.g5.xlarge", volume_kms_key=KEY)["ResourceConfig"]
    bought = body(instance_type="ml.m5.xlarge", volume_kms_key=KEY)["ResourceConfig"]
    assert ("VolumeKmsKeyId" in own, bought["VolumeKmsKeyId"]) == (False, KEY)
    disks = {kind: rules.has_local_disk(kind) for kind in rules.instance_types()}
    assert {k for k in disks if k.startswith(("ml.g5.", "ml.r5d."))} <= {k for k, own in disks.items() if own}
    assert not any(
        own for k, own in disks.items() if k.startswith(("ml.m5.", "ml.c5.", "ml.c7i", "ml.p3.", "ml.r5."))
    )


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(request: dict[str, Any]) -> None:
        *above, last = path.split(".")
        node: Any = request
        for part in above:
            node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
        node[last] = value

    return spoil


def drop(*fields: str) -> Callable[[dict[str, Any]], None]:
    def spoil(request: dict[str, Any]) -> None:
        for path in fields:
            *above, last = path.split(".")
            node: Any = request
            for part in above:
                node = node[int(part)] if part.isdigit() else node[part]
            del node[last]

    return spoil


CHANNEL = "InputDataConfig.0.DataSource.S3DataSource"
BAD: dict[str, list[Callable[[dict[str, Any]], None]]] = {
    "missing-field": [drop("RoleArn"), drop("AlgorithmSpecification.TrainingInputMode")],
    "unknown-field": [put("EnableSpot", True), put("ResourceConfig.Gpu", 1)],
    "wrong-type": [put("TrainingJobName", 3), put("StoppingCondition.MaxRuntimeInSeconds", "3600")],
    "not-in-enum": [put("ResourceConfig.InstanceType", "ml.g5.huge"), put(f"{CHANNEL}.S3DataType", "Folder")],
    "pattern": [put("TrainingJobName", "site_1"), put("Tags.0.Key", "a;b"), put("Environment", {"1A": "x"})],
    "wrong-length": [put("TrainingJobName", "a" * 64), put("HyperParameters.x", "y" * 2501)],
    "wrong-count": [
        put("InputDataConfig", []), put("Tags", [{"Key": f"k{i}", "Value": ""} for i in range(51)]),
    ],
    "out-of-range": [
        put("RetryStrategy.MaximumRetryAttempts", 31), put("StoppingCondition.MaxRuntimeInSeconds", 0),
    ],
    "role-arn": [put("RoleArn", "arn:aws:iam::123456789012:user/somebody")],
    "image-uri": [put("AlgorithmSpecification.TrainingImage", "spaceport-lab:1.0")],
    "image-not-pinned": [
        put("AlgorithmSpecification.TrainingImage", SETTINGS.image.replace("1.0", "latest")),
        put("AlgorithmSpecification.TrainingImage", SETTINGS.image.replace(":1.0", "")),
    ],
    "no-instance": [drop("ResourceConfig")],
    "more-than-one-instance": [put("ResourceConfig.InstanceCount", 2)],
    "volume-key-on-local-disk": [put("ResourceConfig.VolumeKmsKeyId", KEY)],
    "no-volume": [put("ResourceConfig", {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1})],
    "no-max-runtime": [drop("StoppingCondition.MaxRuntimeInSeconds")],
    "max-runtime-too-long": [put("StoppingCondition.MaxRuntimeInSeconds", 29 * 86400)],
    "spot-without-max-wait": [drop("StoppingCondition.MaxWaitTimeInSeconds")],
    "max-wait-below-max-runtime": [put("StoppingCondition.MaxWaitTimeInSeconds", 60)],
    "max-wait-without-spot": [put("EnableManagedSpotTraining", False)],
    "spot-without-checkpoints": [drop("CheckpointConfig")],
    "spot-with-warm-pool": [put("ResourceConfig.KeepAlivePeriodInSeconds", 600)],
    "output-not-encrypted": [drop("OutputDataConfig.KmsKeyId"), put("OutputDataConfig.KmsKeyId", "")],
    "input-not-in-s3": [put("InputDataConfig.0.DataSource", {})],
    "no-input": [put("InputDataConfig.0.ChannelName", "photographs")],
    "output-inside-input": [put(f"{CHANNEL}.S3Uri", "s3://lab-bucket/")],
    "open-input-prefix": [put(f"{CHANNEL}.S3Uri", "s3://lab-bucket/raw/site")],
    "checkpoints-are-output": [put("CheckpointConfig.S3Uri", "s3://lab-bucket/runs")],
    "checkpoints-elsewhere": [put("CheckpointConfig.LocalPath", "/tmp")],
    "secret-in-clear": [
        put("Environment", {"DB_PASSWORD": "x"}), put("HyperParameters.api_key", "x"),
        put("HyperParameters.note", "AKIAIOSFODNN7EXAMPLE"),
    ],
    "isolated-with-s3": [put("Environment", {"S3_OUTPUT_URI": "s3://lab-bucket/runs"})],
    "not-isolated": [put("EnableNetworkIsolation", False), drop("EnableNetworkIsolation")],
    "tag-twice": [put("Tags", [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}])],
    "tag-reserved": [put("Tags", [{"Key": "aws:x", "Value": "1"}])],
}  # fmt: skip


@pytest.mark.parametrize(("name", "spoil"), [(name, s) for name, several in BAD.items() for s in several])
def test_bad_requests_are_refused_by_name(
    name: str, spoil: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sagemaker, "client", lambda *_: pytest.fail("something was to be sent"))
    asked = json.loads(json.dumps(body()))
    spoil(asked)
    assert name in names(asked)
    with pytest.raises(ParamsError, match=name):
        sagemaker.submit(asked)


def test_every_rule_has_a_bad_request() -> None:
    source = Path(rules.__file__).read_text()
    said = set(re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)+)"', source))
    assert said == set(BAD) - {"pattern"}


def test_names_are_new_and_never_too_long() -> None:
    several = {training_name("a" * 41, "compression") for _ in range(50)}
    assert len(several) == 50
    for job in ("a", "a" * 41, "a-" * 30 + "b"):
        name = training_name(job, "compression")
        assert len(name) <= request.NAME_LENGTH
        assert names({**body(), "TrainingJobName": name}) == set()


def test_settings_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sagemaker.yaml"
    path.write_text(
        "\n".join(f"{k}: {v}" for k, v in SETTINGS.model_dump().items() if isinstance(v, str) and v)
    )
    assert read_settings(path).role == SETTINGS.role
    path.write_text(path.read_text() + "\nspott: true\n")
    with pytest.raises(ParamsError, match="spott"):
        read_settings(path)
    for content in ("a: [", "[1, 2]", ""):
        path.write_text(content)
        with pytest.raises(ParamsError):
            read_settings(path)
    with pytest.raises(ParamsError):
        read_settings(tmp_path / "none.yaml")


def test_an_override_without_a_value() -> None:
    for override in ("train.max_steps", "max_steps=3"):
        with pytest.raises(ParamsError, match="override"):
            build("site-1", "s3://lab-bucket/raw/site", SETTINGS, overrides=[override])
    with pytest.raises(InputError):
        build("site-1", "raw/site", SETTINGS)


def test_photographs_from_here_go_to_raw(cloud: str, tmp_path: Path) -> None:
    scene = tmp_path / "Großer Hafen"
    (scene / "images").mkdir(parents=True)
    (scene / "images" / "a.jpg").write_bytes(b"a")
    make_run(scene / "runs" / "old-1")
    settings = SETTINGS.model_copy(update={"kms_key": "alias/aws/s3"})
    address = drain(sagemaker.stage_input(str(scene), settings))
    assert address == "s3://lab-bucket/raw/Gro-er-Hafen"
    found = client("s3").list_objects_v2(Bucket="lab-bucket", Prefix="raw/Gro")["Contents"]
    assert [entry["Key"].partition("/raw/")[0].split("/", 2)[2] for entry in found] == [
        "_SUCCESS.json",
        "images/a.jpg",
    ]
    (tmp_path / "splat.ply").write_bytes(b"ply")
    assert drain(sagemaker.stage_input(str(tmp_path / "splat.ply"), settings)) == "s3://lab-bucket/raw/splat"
    assert drain(sagemaker.stage_input("s3://other-bucket/x/", settings)) == "s3://other-bucket/x"
    with pytest.raises(InputError, match="nothing"):
        drain(sagemaker.stage_input(str(tmp_path / "none"), settings))


def test_sent_followed_and_not_sent_twice(cloud: str) -> None:
    asked = body()
    arn = sagemaker.submit(asked)
    name = asked["TrainingJobName"]
    assert arn.endswith(f":training-job/{name}")
    seen = list(sagemaker.follow(name, pause=lambda _: None))
    assert seen[-1].state == "Completed"
    assert seen[-1].ended
    with pytest.raises(JobConflictError):
        sagemaker.submit(asked)
    sagemaker.stop(name)  # has ended, and stays as it is
    with pytest.raises(JobUnknownError):
        sagemaker.status("no-such-job")
    assert sagemaker.last_lines("no-such-job") == []


def test_nothing_is_sent_before_all_is_judged(cloud: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    before = len(client("s3").list_objects_v2(Bucket="lab-bucket").get("Contents", ()))
    source = str(tmp_path)
    bad = SETTINGS.model_copy(update={"image": "spaceport-lab:1.0"})
    for settings, presets, overrides, match in (
        (bad, (), (), "image-uri"),
        (SETTINGS, ("mine.yaml",), (), "only the presets of the package"),
        (SETTINGS, (), ("train.max_stepz=1",), "max_steps"),
    ):
        with pytest.raises(ParamsError, match=match):
            drain(sagemaker.send("judged-1", source, settings, "full", presets, overrides))
    assert len(client("s3").list_objects_v2(Bucket="lab-bucket").get("Contents", ())) == before
    assert client("sagemaker").list_training_jobs(NameContains="judged-1")["TrainingJobSummaries"] == []


def test_sent_followed_and_fetched_in_two_calls(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sagemaker.time, "sleep", lambda _: None)
    settings = SETTINGS.model_copy(update={"kms_key": "alias/aws/s3"})
    (tmp_path / "harbour").mkdir()
    (tmp_path / "harbour" / "a.jpg").write_bytes(b"a")
    name = drain(sagemaker.send("harbour-1", str(tmp_path / "harbour"), settings))
    with pytest.raises(StoreMissingError):  # it completed, and yet kept nothing
        drain(sagemaker.see_through(name, tmp_path / "data"))
    kept = make_run(tmp_path / "input" / "runs" / "harbour-1")
    key = f"runs/{name}/output/output.tar.gz"
    client("s3").put_object(Bucket="lab-bucket", Key=key, Body=pack(kept))
    states: list[str] = []
    root = drain(sagemaker.see_through(name, tmp_path / "data", say=lambda s: states.append(s.state)))
    assert root == tmp_path / "data" / "harbour" / "runs" / "harbour-1"
    assert states[-1] == "Completed"
    monkeypatch.setattr(
        sagemaker,
        "follow",
        lambda *_: iter([sagemaker.Status(name, "Failed", "", "AlgorithmError: no cameras")]),
    )
    with pytest.raises(StageError, match="no cameras") as caught:
        drain(sagemaker.see_through(name, tmp_path / "data"))
    assert caught.value.see == root, "what a failed job kept says why"


def described(state: str, detail: str, **more: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": "j",
        "TrainingJobArn": "arn:aws:sagemaker:eu-central-1:123456789012:training-job/j",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://b/m"},
        "TrainingJobStatus": state,
        "SecondaryStatus": detail,
        "AlgorithmSpecification": {"TrainingInputMode": "File"},
        "StoppingCondition": {},
        "CreationTime": 0,
        "ResourceConfig": {},
        **more,
    }


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    use(monkeypatch, "http://127.0.0.1:9")
    one = client("sagemaker")
    monkeypatch.setattr(sagemaker, "client", lambda *_: one)
    with Stubber(one) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def test_a_job_is_followed_through_faults_to_its_end(stub: Stubber) -> None:
    for state, detail in (("InProgress", "Starting"), ("InProgress", "Starting"), ("InProgress", "Training")):
        stub.add_response("describe_training_job", described(state, detail), {"TrainingJobName": "j"})
    stub.add_client_error("describe_training_job", "ThrottlingException", http_status_code=400)
    stub.add_response("describe_training_job", described("InProgress", "Interrupted"))
    ended = described(
        "Failed", "Failed", FailureReason="AlgorithmError: no cameras", BillableTimeInSeconds=40
    )
    stub.add_response("describe_training_job", ended)
    pauses: list[float] = []
    seen = list(sagemaker.follow("j", pause=pauses.append))
    assert [s.detail for s in seen] == ["Starting", "Training", "Interrupted", "Failed"]
    assert (seen[-1].message, seen[-1].billed_seconds) == ("AlgorithmError: no cameras", 40)
    assert all(0 < pause <= 1.2 * sagemaker._LONGEST_WAIT for pause in pauses)


def test_following_gives_up_in_the_end(stub: Stubber) -> None:
    for _ in range(10):
        stub.add_client_error("describe_training_job", "ThrottlingException")
    with pytest.raises(StoreBusyError):
        list(sagemaker.follow("j", pause=lambda _: None))


def test_stopping_and_a_job_that_is_not_there(stub: Stubber) -> None:
    stub.add_response("describe_training_job", described("InProgress", "Training"))
    stub.add_response("stop_training_job", {}, {"TrainingJobName": "j"})
    sagemaker.stop("j")
    stub.add_client_error("describe_training_job", "ValidationException", "Requested resource not found.")
    with pytest.raises(JobUnknownError):
        sagemaker.stop("j")


def pack(run: Path, more: dict[str, Any] | None = None) -> bytes:
    """output.tar.gz as SageMaker makes it of SM_OUTPUT_DATA_DIR."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        archive.add(run, arcname=run.name)
        for name, kind in (more or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind
            archive.addfile(entry)
    return memory.getvalue()


@pytest.fixture
def finished(cloud: str) -> str:
    asked = body()
    sagemaker.submit(asked)
    return asked["TrainingJobName"]


def test_what_a_job_kept_comes_where_runs_lie(finished: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "input" / "runs" / "site-1", ("ingest", "sfm", "train"), "succeeded")
    kept = tmp_path / "kept" / "site-1"
    keep(run, kept)
    client("s3").put_object(Bucket="lab-bucket", Key=f"runs/{finished}/output/output.tar.gz", Body=pack(kept))
    data = tmp_path / "data"
    (data / "site" / "runs" / "site-1").mkdir(parents=True)
    (data / "site" / "runs" / "site-1" / "mine.txt").write_text("stays")
    root = drain(sagemaker.fetch_outputs(finished, data))
    assert root == data / "site" / "runs" / "site-1", "the scene is the prefix's, not SageMaker's word for it"
    assert tree(root) == {**tree(kept), "mine.txt": b"stays"}
    assert "03_train/checkpoint.pt" not in tree(root)
    assert [p.name for p in data.iterdir()] == ["site"]


def test_hostile_and_broken_archives(finished: str, tmp_path: Path) -> None:
    run, data = make_run(tmp_path / "site" / "runs" / "site-1"), tmp_path / "deep" / "data"
    key = f"runs/{finished}/output/output.tar.gz"
    link = (tarfile.SYMTYPE, "/etc")
    body = pack(run, {"site-1/link": link, "site-1/device": (tarfile.CHRTYPE, "")})
    client("s3").put_object(Bucket="lab-bucket", Key=key, Body=body)
    root = drain(sagemaker.fetch_outputs(finished, data))
    assert set(tree(root)) == set(tree(run))
    for content in (pack(run, {"../../up": (tarfile.REGTYPE, "")}), pack(run)[:-300], b"no archive"):
        client("s3").put_object(Bucket="lab-bucket", Key=key, Body=content)
        with pytest.raises(WorkspaceError):
            drain(sagemaker.fetch_outputs(finished, tmp_path / "deep" / "other"))
    assert {p.name for p in tmp_path.iterdir()} == {"site", "deep"}


def test_nothing_kept(finished: str, tmp_path: Path) -> None:
    with pytest.raises(StoreMissingError):
        drain(sagemaker.fetch_outputs(finished, tmp_path))
    with pytest.raises(JobUnknownError):
        drain(sagemaker.fetch_outputs("no-such-job", tmp_path))
