"""The CreateTrainingJob request for a run, from settings in a YAML file."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spaceport_lab.aws.address import Address
from spaceport_lab.aws.rules import has_local_disk
from spaceport_lab.errors import ParamsError

NAME_LENGTH = 63
"""SageMaker's limit for a training job's name."""


class Settings(BaseModel):
    """How runs are sent to SageMaker: a YAML file of these names.

    Attributes:
        role: ARN of the role the job runs as, with the policy deploy/iam/job.json.
        image: of deploy/Dockerfile in ECR, with its tag or digest.
        raw: s3:// prefix for photographs that come from this machine.
        output: s3:// prefix of all runs.
        checkpoints: s3:// prefix of what an interrupted run goes on from; empty: beside `output`.
        region: of everything; empty: as the AWS tools have it.
        instance_type: a name as SageMaker has it.
        volume_gb: [GB] disk, for instances that bring none.
        max_hours: [h] the run itself.
        max_wait_hours: [h] the run and the waiting for spot machines.
        spot: whether machines that may be taken away will do; they cost about a third.
        retries: how often SageMaker begins anew after an error of its own.
        kms_key: id, ARN or alias of the key for what is written to S3.
        volume_kms_key: id or ARN of the key for disks, for instances that bring none.
        subnets, security_groups: of a VPC; both or none.
        tags: name → value, for the bill.
        environment: name → value, nothing secret.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    image: str
    raw: str
    output: str
    checkpoints: str = ""
    region: str = ""
    instance_type: str = "ml.g5.xlarge"
    volume_gb: int = Field(100, ge=10, le=16384)
    max_hours: float = Field(12, gt=0)
    max_wait_hours: float = Field(24, gt=0)
    spot: bool = True
    retries: int = Field(2, ge=0, le=30)
    kms_key: str = "alias/aws/s3"
    volume_kms_key: str = ""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    tags: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)


def read_settings(path: Path) -> Settings:
    """Read a YAML file of Settings.

    Raises:
        ParamsError: it is missing, no YAML, or has names or values that are not known.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
        return Settings.model_validate(content or {})
    except (OSError, yaml.YAMLError) as error:
        raise ParamsError("the settings for SageMaker cannot be read", got=f"{path}: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ParamsError(
            "the settings for SageMaker cannot be used",
            got=problems,
            expected="see docs/sagemaker.md",
            see=path,
        ) from error


def training_name(job: str, steps: str) -> str:
    """A name no other training job has: SageMaker never gives one twice, and a run may be sent again."""
    tail = f"{steps}-{secrets.token_hex(3)}"
    return f"{job[: NAME_LENGTH - len(tail) - 1].rstrip('-')}-{tail}"


def build(
    job: str,
    source: str,
    settings: Settings,
    steps: str = "full",
    presets: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The CreateTrainingJob request for a run.

    Args:
        job: the run's name; the same again goes on from its checkpoints.
        source: s3:// prefix of photographs, or of a PLY.
        settings: where and how.
        steps: full, 3dgs or compression.
        presets: names, later ones win.
        overrides: `STAGE.NAME=VALUE` texts.

    Raises:
        InputError: an address that is none.
        ParamsError: an override without `=`.
    """
    output = Address.parse(settings.output)
    checkpoints = Address.parse(settings.checkpoints) if settings.checkpoints else _beside(output)
    runtime = round(settings.max_hours * 3600)
    stopping = {"MaxRuntimeInSeconds": runtime}
    if settings.spot:
        stopping["MaxWaitTimeInSeconds"] = round(settings.max_wait_hours * 3600)
    body: dict[str, Any] = {
        "TrainingJobName": training_name(job, steps),
        "RoleArn": settings.role,
        "AlgorithmSpecification": {"TrainingImage": settings.image, "TrainingInputMode": "File"},
        "HyperParameters": _hyperparameters(job, source, steps, presets, overrides),
        "InputDataConfig": [_channel(source)],
        "OutputDataConfig": {"S3OutputPath": f"{output}/", "KmsKeyId": settings.kms_key},
        "CheckpointConfig": {"S3Uri": f"{checkpoints / job}/", "LocalPath": "/opt/ml/checkpoints"},
        "ResourceConfig": _resources(settings),
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": settings.spot,
        "EnableNetworkIsolation": True,
        "EnableInterContainerTrafficEncryption": False,  # one container
        "Tags": [{"Key": k, "Value": v} for k, v in {**settings.tags, "spaceport:job": job}.items()],
    }
    if settings.environment:
        body["Environment"] = dict(settings.environment)
    if settings.retries:
        body["RetryStrategy"] = {"MaximumRetryAttempts": settings.retries}
    if settings.subnets or settings.security_groups:
        body["VpcConfig"] = {
            "Subnets": list(settings.subnets),
            "SecurityGroupIds": list(settings.security_groups),
        }
    return body


def _beside(output: Address) -> Address:
    """`checkpoints` beside the prefix of the runs: a rule by prefix lets all of them expire."""
    above, _, _ = output.prefix.rpartition("/")
    return Address(output.bucket, f"{above}/checkpoints" if above else "checkpoints")


def _hyperparameters(
    job: str, source: str, steps: str, presets: Sequence[str], overrides: Sequence[str]
) -> dict[str, str]:
    scene = Address.parse(source).prefix.rpartition("/")[2]
    given = {"job": job, "steps": steps, "presets": ",".join(presets), "scene": scene}
    for override in overrides:
        name, found, text = override.partition("=")
        if not found or "." not in name:
            raise ParamsError(
                "an override names a stage's parameter", got=override, expected="STAGE.NAME=VALUE"
            )
        given[name.strip()] = text
    return {name: text for name, text in given.items() if text}


def _channel(source: str) -> dict[str, Any]:
    return {
        "ChannelName": "input",
        "InputMode": "File",
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                # Without the slash every prefix that begins so would come too.
                "S3Uri": f"{Address.parse(source)}/",
                "S3DataDistributionType": "FullyReplicated",
            }
        },
    }


def _resources(settings: Settings) -> dict[str, Any]:
    resources: dict[str, Any] = {
        "InstanceType": settings.instance_type,
        "InstanceCount": 1,
        "VolumeSizeInGB": settings.volume_gb,  # an instance with a disk of its own does not look at it
    }
    if settings.volume_kms_key and not has_local_disk(settings.instance_type):
        resources["VolumeKmsKeyId"] = settings.volume_kms_key
    return resources
