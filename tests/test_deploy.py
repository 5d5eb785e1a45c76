"""What lies in deploy/: pinned, closed, small, and the decision to stop an instance made for real."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spaceport_lab.aws.policies import VALUES, main, render
from spaceport_lab.aws.runs import is_intermediate
from spaceport_lab.aws.store import INTERMEDIATE_TAG
from spaceport_lab.errors import ParamsError

TOP = Path(__file__).parent.parent
DEPLOY = TOP / "deploy"
SCRIPTS = sorted(DEPLOY.glob("notebook-instance/*.sh"))
POLICIES = sorted(DEPLOY.glob("iam/*.json"))
GIVEN = {
    "ACCOUNT": "123456789012",
    "REGION": "eu-central-1",
    "BUCKET": "my-bucket",
    "KMS_KEY_ARN": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "NOTEBOOK": "lab",
}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continued lines joined, comments out."""
    lines = (line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = (line.partition(" ")[::2] for line in text.splitlines() if line.strip())
    return [(word, rest.strip()) for word, rest in found]


def test_the_dockerfile_is_one_that_a_reader_of_it_would_pass() -> None:
    known = ["ARG", "FROM", "SHELL", "ENV", "RUN", "WORKDIR", "COPY", "ENTRYPOINT", "USER", "LABEL"]
    steps = instructions()
    assert {word for word, _ in steps} <= set(known)
    arguments = dict(rest.partition("=")[::2] for word, rest in steps if word == "ARG")
    stages = [rest for word, rest in steps if word == "FROM"]
    assert stages == ["${CUDA_DEVEL} AS build", "${CUDA_RUNTIME}"]
    bases = arguments["CUDA_DEVEL"] + arguments["CUDA_RUNTIME"]
    versions = re.findall(r":(\d+\.\d+\.\d+)-", bases)
    assert len(versions) == 2, "bases are pinned"
    assert len(set(versions)) == 1, "of one CUDA"
    major, minor, _ = versions[0].split(".")
    assert arguments["TORCH_CUDA"] == f"cu{major}{minor}", "torch of the same CUDA as nvcc"
    assert arguments["PIP_EXTRA_INDEX_URL"] == "", "whoever builds says where it is from"
    pinned = re.search(r"^gsplat==(.*)$", (TOP / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert arguments["GSPLAT"] == f"v{pinned[1]}"
    last = steps[[i for i, (word, _) in enumerate(steps) if word == "FROM"][-1] :]
    assert [rest for word, rest in last if word == "ENTRYPOINT"] == ['["spaceport-lab", "sagemaker-entry"]']
    assert any("SPACEPORT_USER=spaceport" in rest for word, rest in last if word == "ENV")
    assert any("useradd" in rest for word, rest in last if word == "RUN")


def test_each_step_of_the_dockerfile() -> None:
    for word, rest in instructions():
        assert not re.search(r"(?i)(AKIA|secret|password|token|api_key)", rest), rest
        assert ":latest" not in rest
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if word == "RUN" and "pip install" in rest:
            for command in rest.split("pip install")[1:]:
                assert "-c constraints.txt" in command, "every package is pinned"
        assert word != "ADD"
        assert "curl" not in rest
        assert "wget" not in rest


def test_what_the_dockerfile_copies_is_there_and_let_through() -> None:
    let = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    build = tomllib.loads((TOP / "pyproject.toml").read_text())
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], "viewer", "hatch_build.py", "pyproject.toml"}
    assert {*needed, build["project"]["readme"], *build["project"]["license-files"], "constraints.txt"} <= let
    assert all((TOP / name).exists() for name in let)
    libraries = re.search(r"install_packages (lib.*?);", (TOP / "scripts/system-packages.sh").read_text())
    text = (DEPLOY / "Dockerfile").read_text()
    assert libraries is not None
    assert all(name in text for name in libraries[1].split())


@pytest.mark.parametrize("path", POLICIES, ids=lambda p: p.name)
def test_policies_are_narrow_and_whole(path: Path) -> None:
    policy = render(path, GIVEN)
    assert "${" not in json.dumps(policy)
    assert policy["Version"] == "2012-10-17"
    sids = [statement["Sid"] for statement in policy["Statement"]]
    assert len(set(sids)) == len(sids)
    assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in sids)
    assert len(json.dumps(policy, separators=(",", ":"))) < 6144, "IAM's limit for a managed policy"
    # What AWS cannot limit to a resource; each has a condition or tells nothing.
    free = {"ecr:GetAuthorizationToken", "cloudwatch:PutMetricData"}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions), "actions are named one by one"
        if statement.get("Resource") == "*":
            assert set(actions) <= free or all(action.startswith("ec2:Describe") for action in actions)
        if "iam:PassRole" in actions or "kms:CreateGrant" in actions or "cloudwatch:PutMetricData" in actions:
            assert statement["Condition"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUCKET", "*"), ("BUCKET", "my-bucket/*"), ("BUCKET", 'x"]}'), ("ACCOUNT", "1"), ("ACCOUNT", "*"),
        ("JOB_ROLE", "*"), ("JOB_ROLE", "a/b"), ("KMS_KEY_ARN", "*"), ("REGION", "*"), ("NOTEBOOK", "*"),
        ("REPOSITORY", "*"), ("PARTITION", "*"), ("SURPRISE", "a"), ("BUCKET", "a\nb"),
    ],
)  # fmt: skip
def test_no_value_widens_a_policy(name: str, value: str) -> None:
    with pytest.raises(ParamsError):
        render(DEPLOY / "iam" / "job.json", {**GIVEN, name: value})


def test_every_placeholder_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)\}", "".join(path.read_text() for path in POLICIES)))
    assert used == set(VALUES)
    with pytest.raises(ParamsError, match="BUCKET"):
        render(DEPLOY / "iam" / "job.json", {n: v for n, v in GIVEN.items() if n != "BUCKET"})
    words = [f"{name}={value}" for name, value in GIVEN.items()]
    assert main([str(DEPLOY / "iam" / "trust.json"), *words]) == 0
    assert (
        json.loads(capsys.readouterr().out)["Statement"][0]["Principal"]["Service"]
        == "sagemaker.amazonaws.com"
    )
    assert main([str(DEPLOY / "iam" / "job.json"), "ACCOUNT"]) == 1
    assert main([]) == 2


def test_the_lifecycle_rules_hit_what_may_expire_and_nothing_else() -> None:
    rules = {rule["ID"]: rule for rule in json.loads((DEPLOY / "s3-lifecycle.json").read_text())["Rules"]}

    def days(key: str, tags: dict[str, str]) -> int | None:
        found = []
        for rule in rules.values():
            both = rule["Filter"].get("And", rule["Filter"])
            tagged = all(tags.get(t["Key"]) == t["Value"] for t in both.get("Tags", ()))
            if key.startswith(both.get("Prefix", "")) and tagged and "Expiration" in rule:
                found.append(rule["Expiration"]["Days"])
        return min(found, default=None)

    tag = dict([INTERMEDIATE_TAG.split("=")])
    assert is_intermediate("03_train/checkpoint.pt")
    assert days("runs/site-1/03_train/checkpoint.pt", tag) == 30
    assert days("runs/site-1/04_compress/splat.sog", {}) is None
    assert days("checkpoints/site-1/a", {}) == 14
    assert days("raw/site/a.jpg", {}) is None
    assert days("raw/site/a.jpg", tag) is None
    for rule in rules.values():
        assert rule["Status"] == "Enabled"
        # S3 refuses to abort uploads by tag.
        assert "AbortIncompleteMultipartUpload" not in rule or "And" not in rule["Filter"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_bash_and_small(path: Path) -> None:
    text = path.read_text()
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert len(text) <= 16384, "SageMaker's limit"
    assert len(text.encode()) == len(text), "plain ASCII: it goes through base64 and a console"
    assert not re.search(r"`|\beval\b|curl[^\n]*\|\s*(ba)?sh", text)
    for line in text.splitlines():
        assert not re.search(r"\b(rm|cp|chmod|chown|git -C|mkdir -p) [^\"'#]*\$[A-Za-z{]", line), (
            f"unquoted: {line}"
        )


def test_the_start_script_starts_and_returns() -> None:
    text = (DEPLOY / "notebook-instance" / "on-start.sh").read_text()
    start = text[text.index('case "${1:-start}"') :]
    assert "nohup" in start
    assert start.count("&\n") >= 1, "the install runs in the background"
    for line in re.findall(r"^(?:CHECKOUT|ENVIRONMENT|LOG|SETTINGS)=.*$", text, re.M):
        assert "$HOME_DIR/" in line, "only this folder outlives a stop"
    assert "HOME_DIR=/home/ec2-user/SageMaker\n" in text
    assert "auto-stop.sh" in text


NOW = 1_800_000_000


def decide(tmp_path: Path, jobs: Any, kernels: Any, terminals: Any, runs: int = 0, up: float = 1e6) -> str:
    places = []
    for name, content in (("jobs", jobs), ("kernels", kernels), ("terminals", terminals)):
        place = tmp_path / name
        if content is not None:
            place.write_text(content if isinstance(content, str) else json.dumps(content))
        places.append(str(place))
    script = str(DEPLOY / "notebook-instance" / "auto-stop.sh")
    done = subprocess.run(
        ["bash", script, "--decide", str(NOW), "60", *places, str(runs), str(NOW - up)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ago(minutes: float) -> str:
    moment = datetime.datetime.fromtimestamp(NOW - 60 * minutes, datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")


IDLE = {"execution_state": "idle", "last_activity": ago(90)}


@pytest.mark.parametrize(
    ("jobs", "kernels", "terminals", "more", "verdict"),
    [
        ([], [], [], {}, "stop: quiet for 16666"),
        ([], [IDLE], [{"last_activity": ago(75)}], {}, "stop: quiet for 75"),
        ({"jobs": []}, [IDLE], [], {}, "stop: quiet for 90"),
        ([{"name": "a", "state": "failed", "ended": NOW - 7200}], [], [], {}, "stop: quiet for 120"),
        ([{"name": "a", "state": "succeeded", "ended": NOW - 60}], [], [], {}, "stay: quiet for 1 "),
        ([{"name": "a", "state": "running"}], [], [], {}, "stay: 1 jobs in the queue, such as a"),
        ([{"name": "a", "state": "queued"}], [], [], {}, "stay: 1 jobs"),
        ([{"name": "a", "state": "some new state"}], [], [], {}, "stay: 1 jobs"),
        ([], [{**IDLE, "execution_state": "busy"}], [], {}, "stay: 1 kernels"),
        ([], [IDLE], [{"last_activity": ago(5)}], {}, "stay: quiet for 5 "),
        ([], [], [], {"up": 600}, "stay: quiet for 10 "),
        ([], [], [], {"runs": 2}, "stay: 2 runs"),
        (None, [], [], {}, "stay: the queue cannot be read"),
        ("Traceback", [], [], {}, "stay: the queue cannot be read"),
        ([{"state": "running"}], [], [], {}, "stay: the queue cannot be read"),
        ([], None, [], {}, "stay: Jupyter cannot be asked"),
        ([], "<html>", [], {}, "stay: Jupyter cannot be asked"),
        ([], [], {"message": "Forbidden"}, {}, "stay: Jupyter cannot be asked"),
        ([], [{**IDLE, "last_activity": "yesterday"}], [], {}, "stay: Jupyter cannot be asked"),
    ],
)  # fmt: skip
def test_when_the_instance_stops(
    tmp_path: Path, jobs: Any, kernels: Any, terminals: Any, more: dict[str, Any], verdict: str
) -> None:
    assert decide(tmp_path, jobs, kernels, terminals, **more).startswith(verdict)


def test_the_auto_stop_looks_and_stops(tmp_path: Path) -> None:
    """The whole script, with programs of ours in the place of AWS's and Jupyter's."""
    environment, tools = tmp_path / "env" / "bin", tmp_path / "tools"
    for folder in (environment, tools):
        folder.mkdir(parents=True)

    def program(place: Path, body: str) -> None:
        place.write_text(f"#!/usr/bin/env bash\n{body}\n")
        place.chmod(0o755)

    program(environment / "spaceport-lab", '[ "$1 $2 $SPACEPORT_DATA" = "jobs --json /data" ] && cat "$JOBS"')
    program(environment / "python", 'exec python3 "$@"')
    program(tools / "curl", "echo '[]'")
    program(tools / "pgrep", "echo 0; exit 1")
    program(tools / "aws", f'echo "$@" >> "{tmp_path}/asked"')
    program(tools / "cut", "echo 99999")
    jobs = tmp_path / "jobs.json"
    script = str(DEPLOY / "notebook-instance" / "auto-stop.sh")
    for content, asked in (
        ('[{"name": "a", "state": "running"}]', ""),
        ("[]", "sagemaker stop-notebook-instance --notebook-instance-name lab\n"),
    ):
        jobs.write_text(content)
        done = subprocess.run(
            ["bash", script, "lab", "60", "/data", str(environment.parent)],
            capture_output=True, text=True, env={"PATH": f"{tools}:/usr/bin:/bin", "JOBS": str(jobs)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        place = tmp_path / "asked"
        assert (place.read_text() if place.exists() else "") == asked, done.stdout
