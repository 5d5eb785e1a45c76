"""The shipped policies on a stand-in that enforces them: all statements are enough, and each is needed.

The stand-in asks about S3 by bucket and key, about all else by action alone, and knows no conditions. So it
is given the policies without conditions, and with `*` for resources outside S3; what conditions and resources
forbid is asked of a small evaluator below. And it is no cloud: what S3, SageMaker and a disk would ask for in
the role's name (keys, the image, the log) is asked for by `platform`, as AWS's documentation has it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_standins import KEYS, make_run, moto_server, tree, use

from spaceport_lab.aws import s3, sagemaker
from spaceport_lab.aws.client import client, new_session
from spaceport_lab.aws.policies import render
from spaceport_lab.aws.request import Settings, build
from spaceport_lab.aws.runs import RunStore, drain
from spaceport_lab.errors import SpaceportError, StoreDeniedError

DEPLOY = Path(__file__).parent.parent / "deploy" / "iam"
BUCKET, ACCOUNT, REGION = "lab-bucket", "123456789012", "eu-central-1"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/spaceport-lab:1.0"
_numbers = itertools.count()

Policy = dict[str, Any]


class Cloud:
    """The stand-in, and what its administrator made there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.open()
        s3_, kms, ecr, ec2 = (self.admin(name) for name in ("s3", "kms", "ecr", "ec2"))
        s3_.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        for name in ("a.jpg", "b.jpg"):
            s3_.put_object(Bucket=BUCKET, Key=f"raw/site/{name}", Body=name.encode())
        self.key = kms.create_key()["KeyMetadata"]["Arn"]
        ecr.create_repository(repositoryName="spaceport-lab")
        self.subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        self.notebook = "lab"
        self.admin("sagemaker").create_notebook_instance(
            NotebookInstanceName=self.notebook,
            InstanceType="ml.t3.medium",
            RoleArn=f"arn:aws:iam::{ACCOUNT}:role/x",
        )

    def admin(self, service: str) -> Any:
        return new_session().create_client(
            service, endpoint_url=self.url, region_name=REGION,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key="x",
        )  # fmt: skip

    def _enforce(self, count: str) -> None:
        place, kind = f"{self.url}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(place, data=count.encode(), headers=kind)
        urllib.request.urlopen(request, timeout=10).close()

    def open(self) -> None:
        """Let everybody do everything."""
        self._enforce("inf")

    def close(self) -> None:
        """Ask for permissions from now on."""
        self._enforce("0")

    def policy(self, name: str) -> Policy:
        given = {
            "ACCOUNT": ACCOUNT, "REGION": REGION, "BUCKET": BUCKET, "KMS_KEY_ARN": self.key,
            "NOTEBOOK": self.notebook,
        }  # fmt: skip
        return render(DEPLOY / name, given)

    def role(self, *policies: Policy) -> dict[str, str]:
        """A new role with these policies; the environment of who runs as it."""
        iam, name = self.admin("iam"), f"role-{next(_numbers)}"
        trust = json.dumps(self.policy("trust.json"))
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        for number, policy in enumerate(policies):
            iam.put_role_policy(RoleName=name, PolicyName=f"p{number}", PolicyDocument=as_understood(policy))
        who = self.admin("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": who["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": who["SecretAccessKey"],
            "AWS_SESSION_TOKEN": who["SessionToken"],
        }


def actions(statement: dict[str, Any]) -> list[str]:
    return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]


def as_understood(policy: Policy) -> str:
    """The policy as the stand-in can read it, see above."""
    statements = []
    for statement in policy["Statement"]:
        in_s3 = all(action.startswith("s3:") for action in actions(statement))
        kept = {k: v for k, v in statement.items() if k != "Condition"}
        kept["Action"] = [action.replace("cloudwatch:", "monitoring:") for action in actions(statement)]
        statements.append(kept if in_s3 else {**kept, "Resource": "*"})
    # The role of which all was taken away must still be a policy.
    nothing = {"Effect": "Allow", "Action": "sts:GetCallerIdentity", "Resource": "*"}
    return json.dumps({"Version": policy["Version"], "Statement": [*statements, nothing]})


def allows(policy: Policy, action: str, resource: str, **context: str) -> bool:
    """Whether a policy of Allow statements allows it: action, resource, and every condition."""
    for statement in policy["Statement"]:
        resources = (
            statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        )
        named = action in actions(statement) and any(fnmatch.fnmatchcase(resource, r) for r in resources)
        met = True
        for operator, wanted in statement.get("Condition", {}).items():
            assert operator in ("StringEquals", "StringLike", "Bool")
            for key, values in wanted.items():
                several = [values] if isinstance(values, str) else values
                found = context.get(key.replace(":", "_"), "")
                met = met and any(fnmatch.fnmatchcase(found, value) for value in several)
        if named and met:
            return True
    return False


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with moto_server(MOTO_ACCOUNT_ID=ACCOUNT) as url:
        yield Cloud(url)


@pytest.fixture
def enforced(cloud: Cloud) -> Iterator[Cloud]:
    yield cloud
    cloud.open()


def platform(cloud: Cloud) -> None:
    """What AWS does in the role's name for a training job, each group of it once."""
    kms, ecr, logs = (client(name, REGION) for name in ("kms", "ecr", "logs"))
    sealed = kms.generate_data_key(KeyId=cloud.key, KeySpec="AES_256")["CiphertextBlob"]
    kms.decrypt(CiphertextBlob=sealed)
    kms.create_grant(
        KeyId=cloud.key, GranteePrincipal=f"arn:aws:iam::{ACCOUNT}:role/x", Operations=["Decrypt"]
    )
    ecr.get_authorization_token()
    ecr.batch_get_image(repositoryName="spaceport-lab", imageIds=[{"imageTag": "1.0"}])
    group, stream = "/aws/sagemaker/TrainingJobs", f"job-{next(_numbers)}/algo-1"
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    logs.put_log_events(
        logGroupName=group,
        logStreamName=stream,
        logEvents=[{"timestamp": 1_800_000_000_000, "message": "hello"}],
    )
    logs.describe_log_streams(logGroupName=group)
    client("cloudwatch", REGION).put_metric_data(
        Namespace="/aws/sagemaker/TrainingJobs", MetricData=[{"MetricName": "GPU", "Value": 1.0}]
    )
    ec2 = client("ec2", REGION)
    ec2.describe_subnets(SubnetIds=[cloud.subnet])
    made = ec2.create_network_interface(SubnetId=cloud.subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.delete_network_interface(NetworkInterfaceId=made)


def run_flow(cloud: Cloud, tmp_path: Path) -> None:
    """Restore, fetch the input, sync after a stage, again with a file less, and with the marker."""
    job = f"site-{next(_numbers)}"
    store = RunStore(f"s3://{BUCKET}/runs", job, kms_key=cloud.key)
    root = tmp_path / "site" / "runs" / job
    store.check()
    assert drain(store.restore(root)).n == 0
    assert drain(s3.download(s3.Address.parse(f"s3://{BUCKET}/raw/site"), tmp_path / "raw")).n == 2
    drain(store.sync(make_run(root)))
    (root / "01_ingest" / "images" / "b.jpg").unlink()
    drain(store.sync(make_run(root, ("train",))))
    assert drain(store.sync(root, complete=True)).complete
    back = tmp_path / "back" / "runs" / job
    drain(RunStore(f"s3://{BUCKET}/runs", job).restore(back))
    assert tree(back)


def job_flow(cloud: Cloud, tmp_path: Path) -> None:
    platform(cloud)
    run_flow(cloud, tmp_path)


def notebook_flow(cloud: Cloud, tmp_path: Path) -> None:
    kms = client("kms", REGION)
    kms.generate_data_key(KeyId=cloud.key, KeySpec="AES_256")
    client("sagemaker", REGION).stop_notebook_instance(NotebookInstanceName=cloud.notebook)
    run_flow(cloud, tmp_path)


def submitter_flow(cloud: Cloud, tmp_path: Path) -> None:
    """Send photographs, send the job, look, read its log, fetch what it kept, stop another."""
    settings = Settings(
        role=f"arn:aws:iam::{ACCOUNT}:role/spaceport-job", image=IMAGE, raw=f"s3://{BUCKET}/raw",
        output=f"s3://{BUCKET}/runs", kms_key=cloud.key, region=REGION,
    )  # fmt: skip
    scene = tmp_path / f"scene{next(_numbers)}"
    scene.mkdir()
    (scene / "a.jpg").write_bytes(b"a")
    drain(sagemaker.stage_input(str(scene), settings))
    (scene / "a.jpg").write_bytes(b"other")
    source = drain(sagemaker.stage_input(str(scene), settings))
    body = build("site-1", source, settings)
    name = body["TrainingJobName"]
    sagemaker.submit(body, REGION)
    kms = client("kms", REGION)
    kms.generate_data_key(KeyId=cloud.key, KeySpec="AES_256")
    assert [s.state for s in sagemaker.follow(name, REGION, pause=lambda _: None)][-1] == "Completed"
    sagemaker.last_lines("job-", region=REGION)
    drain(s3.download(s3.Address.parse(f"s3://{BUCKET}/runs/kept"), tmp_path / "kept"))


class Refused(Exception):
    """What AWS would refuse, and the stand-in does not ask about."""


def asked_besides(policy: Policy) -> None:
    """CreateTrainingJob asks whether its caller may hand over the role; the stand-in does not."""
    to = {"iam_PassedToService": "sagemaker.amazonaws.com"}
    if not allows(policy, "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/spaceport-job", **to):
        raise Refused("iam:PassRole")


FLOWS: dict[str, tuple[Callable[[Cloud, Path], None], tuple[str, ...]]] = {
    "job": (job_flow, ("job.json", "job-vpc.json")),
    "submitter": (submitter_flow, ("submitter.json",)),
    "notebook": (notebook_flow, ("notebook.json",)),
}


def go(
    cloud: Cloud, name: str, policies: list[Policy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.open()
    cloud.admin("s3").put_object(Bucket=BUCKET, Key="runs/kept/run.json", Body=b"{}")
    cloud.admin("logs").describe_log_groups()
    identity = cloud.role(*policies)
    use(monkeypatch, cloud.url, **identity, AWS_REGION=REGION)
    cloud.close()
    if name == "submitter":
        asked_besides(policies[0])
    FLOWS[name][0](cloud, tmp_path)


def every_statement() -> list[tuple[str, str, str]]:
    """(flow, file, Sid) of all shipped statements: one that is added is asked for, too."""
    return [
        (flow, name, statement["Sid"])
        for flow, (_, names) in FLOWS.items()
        for name in names
        for statement in json.loads((DEPLOY / name).read_text())["Statement"]
    ]


def test_every_policy_is_tried() -> None:
    assert {name for _, names in FLOWS.values() for name in names} | {"trust.json"} == {
        path.name for path in DEPLOY.iterdir()
    }


@pytest.mark.parametrize("flow", FLOWS)
def test_with_all_statements_it_goes_through(
    enforced: Cloud, flow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(enforced, flow, [enforced.policy(name) for name in FLOWS[flow][1]], tmp_path, monkeypatch)


@pytest.mark.parametrize(("flow", "name", "sid"), every_statement())
def test_without_any_one_statement_it_does_not(
    enforced: Cloud, flow: str, name: str, sid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = [enforced.policy(one) for one in FLOWS[flow][1]]
    policy = policies[FLOWS[flow][1].index(name)]
    policy["Statement"] = [s for s in policy["Statement"] if s["Sid"] != sid]
    from botocore.exceptions import ClientError

    with pytest.raises((StoreDeniedError, ClientError, Refused)) as caught:
        go(enforced, flow, policies, tmp_path, monkeypatch)
    said = str(caught.value)
    assert isinstance(caught.value, Refused) or any(
        w in said for w in ("AccessDenied", "Forbidden", "not authorized", "Unauthorized")
    )


def test_stopping_a_job_is_asked_for_too(enforced: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's jobs end at once and cannot be stopped, so its right is asked of the evaluator."""
    policy = enforced.policy("submitter.json")
    arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/site-1-full-1"
    for action in ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "AddTags"):
        assert allows(policy, f"sagemaker:{action}", arn)


S3 = f"arn:aws:s3:::{BUCKET}"
NOT_ALLOWED = [
    ("job.json", "s3:PutObject", f"{S3}/raw/site/a.jpg", {}),
    ("job.json", "s3:DeleteObject", f"{S3}/raw/site/a.jpg", {}),
    ("job.json", "s3:GetObject", f"{S3}/else/a", {}),
    ("job.json", "s3:GetObject", "arn:aws:s3:::other-bucket/runs/a", {}),
    ("job.json", "s3:ListBucket", S3, {"s3_prefix": ""}),
    ("job.json", "s3:ListBucket", S3, {"s3_prefix": "private/"}),
    ("job.json", "s3:DeleteBucket", S3, {}),
    ("job.json", "kms:CreateGrant", "{key}", {"kms_GrantIsForAWSResource": "false"}),
    ("job.json", "kms:Decrypt", "arn:aws:kms:eu-central-1:123456789012:key/other", {}),
    ("job.json", "logs:PutLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/other", {}),
    ("job.json", "cloudwatch:PutMetricData", "*", {"cloudwatch_namespace": "Billing"}),
    ("submitter.json", "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/spaceport-job",
     {"iam_PassedToService": "ec2.amazonaws.com"}),
    ("submitter.json", "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin",
     {"iam_PassedToService": "sagemaker.amazonaws.com"}),
    ("submitter.json", "s3:PutObject", f"{S3}/runs/a", {}),
    ("submitter.json", "sagemaker:CreateEndpoint", f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/a", {}),
    ("notebook.json", "sagemaker:StopNotebookInstance",
     f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:notebook-instance/another", {}),
    ("notebook.json", "s3:PutObject", f"{S3}/raw/a", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "action", "resource", "context"), NOT_ALLOWED)
def test_what_no_policy_allows(
    cloud: Cloud, name: str, action: str, resource: str, context: dict[str, str]
) -> None:
    assert not allows(cloud.policy(name), action, resource.replace("{key}", cloud.key), **context)


@pytest.mark.parametrize(("name", "prefixes"), [("job.json", 3), ("submitter.json", 2), ("notebook.json", 2)])
def test_the_prefixes_that_are_asked_for_may_be_listed(cloud: Cloud, name: str, prefixes: int) -> None:
    """The condition on the prefix, which the stand-in does not know, against what `listing` really sends."""
    policy = cloud.policy(name)
    for prefix in ("raw/site/", "runs/site-1/", "checkpoints/site-1/")[:prefixes]:
        assert s3.Address.parse(f"s3://{BUCKET}/{prefix}").key() == prefix
        assert allows(policy, "s3:ListBucket", S3, s3_prefix=prefix)


def test_a_denied_run_says_where_to_look(
    enforced: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, enforced.url, **enforced.role())
    enforced.close()
    with pytest.raises(SpaceportError) as caught:
        RunStore(f"s3://{BUCKET}/runs", "site-1").check()
    assert caught.value.code == "SL-810"
    assert "deploy/iam" in str(caught.value)
