"""What is wrong with a CreateTrainingJob request, said before anything is sent.

Three readers one after the other: botocore's own validator (types, required and unknown fields), the service
model that comes with botocore (enumerations, patterns, lengths, ranges, which botocore itself passes over),
and rules across fields that only SageMaker's documentation has.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spaceport_lab.aws.client import new_session

MAX_RUNTIME = 28 * 24 * 3600
"""[s] Longer than SageMaker lets any training job run, also with a raised quota."""
_OPERATION = "CreateTrainingJob"
_LOCAL_DISK = re.compile(
    r"ml\.(g4dn|g5|g6e?|g7e?|p3dn|p4de?|p5e?n?|p6[a-z0-9-]*|trn\w+|[cmr]\d+[a-z]*d[a-z]*)\.\w+"
)
_MISPLACED = re.compile(r'(?P<kind>Missing required|Unknown) parameter in (?P<where>\S+): "(?P<name>[^"]*)"')
_MISTYPED = re.compile(r"Invalid type for parameter (?P<where>[^,]+), value")
_IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z]{2}(-[a-z]+)+-\d)\.amazonaws\.com(\.cn)?/"
    r"[a-z0-9]+([._/-][a-z0-9]+)*(?P<version>:[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})?"
)
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]*[\w+=,.@-]")
_SECRET = re.compile(r"(?i)(secret|password|passwd|token|access_key|api_?key|credential)")
_KEY_ID = re.compile(r"(AKIA|ASIA)[0-9A-Z]{16}")
_CLASSES = {r"\p{L}": r"^\W\d_", r"\p{N}": r"\d", r"\p{Z}": r"\s", r"\p{Alnum}": "a-zA-Z0-9"}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        name: the rule, such as `spot-without-max-wait`.
        field: where, such as StoppingCondition.MaxWaitTimeInSeconds.
        message: what came and what is expected.
    """

    name: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.field}: {self.message}"


def validate(body: Mapping[str, Any]) -> list[Fault]:
    """All that is wrong with a CreateTrainingJob request; empty when it may be sent. Nothing is sent here.

    Raises:
        InputError: botocore is not installed.
    """
    shape = _shape()
    faults = list(_types(body, shape))
    # Where types are wrong, nothing else can be asked.
    return faults or [*_values(body, shape, ""), *_rules(body)]


@functools.cache
def _shape() -> Any:
    """The request as the service model has it; read once, for it is large."""
    return new_session().get_service_model("sagemaker").operation_model(_OPERATION).input_shape


def instance_types() -> tuple[str, ...]:
    """The instance types that SageMaker's model knows for training."""
    return tuple(_shape().members["ResourceConfig"].members["InstanceType"].enum)


def has_local_disk(instance_type: str) -> bool:
    """Whether an instance brings its own disk, of fixed size and encrypted by its hardware."""
    return bool(_LOCAL_DISK.fullmatch(instance_type))


def _types(body: Mapping[str, Any], shape: Any) -> Iterator[Fault]:
    """What botocore's validator finds; lengths and ranges are left to the walk, which knows both ends."""
    from botocore.validate import ParamValidator

    for line in ParamValidator().validate(dict(body), shape).generate_report().splitlines():
        if found := _MISPLACED.match(line):
            name = "missing-field" if found["kind"].startswith("Missing") else "unknown-field"
            field = found["name"] if found["where"] == "input" else f"{found['where']}.{found['name']}"
            yield Fault(name, field, line.partition(", must be")[0])
        elif found := _MISTYPED.match(line):
            yield Fault("wrong-type", found["where"], line)


def _values(value: Any, shape: Any, where: str) -> Iterator[Fault]:
    """Walk value and model together."""
    if shape.type_name == "structure":
        for name, member in value.items():
            yield from _values(member, shape.members[name], f"{where}.{name}" if where else name)
    elif shape.type_name == "list":
        yield from _size(len(value), shape, where, "entries")
        for number, item in enumerate(value):
            yield from _values(item, shape.member, f"{where}[{number}]")
    elif shape.type_name == "map":
        yield from _size(len(value), shape, where, "entries")
        for key, item in value.items():
            yield from _values(key, shape.key, f"{where} key {key[:60]!r}")
            yield from _values(item, shape.value, f"{where}.{key[:60]}")
    elif shape.type_name == "string":
        yield from _string(value, shape, where)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _size(value, shape, where, "")


def _string(value: str, shape: Any, where: str) -> Iterator[Fault]:
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        near = [a for a in allowed if a.rpartition(".")[0] == value.rpartition(".")[0]] or list(allowed)
        yield Fault("not-in-enum", where, f"{value!r:.80} is not known; {', '.join(near[:12])} are")
        return
    yield from _size(len(value), shape, where, "characters")
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(_python(pattern), value):
        yield Fault("pattern", where, f"{value!r:.80} does not match {pattern}")


def _python(pattern: str) -> str:
    """A pattern of the model for Python, which has no classes of Unicode by name."""
    if r"\p{L}" in pattern:
        pattern = pattern.replace(r"\p{L}\p{Z}\p{N}", r"\w\s")
    for theirs, ours in _CLASSES.items():
        pattern = pattern.replace(theirs, ours)
    return f"(?s:{pattern})" if pattern == ".*" else pattern


def _size(size: float, shape: Any, where: str, unit: str) -> Iterator[Fault]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    name = {"characters": "wrong-length", "entries": "wrong-count"}.get(unit, "out-of-range")
    if (low is not None and size < low) or (high is not None and size > high):
        bounds = f"{low if low is not None else '−∞'} to {high if high is not None else '∞'}"
        yield Fault(name, where, f"{size}{f' {unit}' if unit else ''}, expected {bounds}")


def _rules(body: Mapping[str, Any]) -> Iterator[Fault]:
    for rule in _RULES:
        yield from rule(body)


def _names(body: Mapping[str, Any]) -> Iterator[Fault]:
    role, image = body["RoleArn"], body["AlgorithmSpecification"].get("TrainingImage", "")
    if not _ROLE.fullmatch(role):
        yield Fault("role-arn", "RoleArn", f"{role!r:.90} is no role: arn:aws:iam::123456789012:role/NAME")
    field, found = "AlgorithmSpecification.TrainingImage", _IMAGE.fullmatch(image)
    if found is None:
        expected = "ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG"
        yield Fault("image-uri", field, f"{image!r:.90} is no image in ECR: {expected}")
    elif (found["version"] or ":latest") == ":latest":
        yield Fault("image-not-pinned", field, "needs a tag other than latest, or a digest")


def _one_machine(body: Mapping[str, Any]) -> Iterator[Fault]:
    resources = body.get("ResourceConfig")
    if not resources or "InstanceType" not in resources:
        yield Fault("no-instance", "ResourceConfig.InstanceType", "is missing")
        return
    if resources.get("InstanceCount") != 1:
        yield Fault(
            "more-than-one-instance", "ResourceConfig.InstanceCount",
            f"{resources.get('InstanceCount')}: a run is made for one machine",
        )  # fmt: skip
    if resources.get("VolumeKmsKeyId") and has_local_disk(resources["InstanceType"]):
        yield Fault(
            "volume-key-on-local-disk", "ResourceConfig.VolumeKmsKeyId",
            f"{resources['InstanceType']} has a disk of its own, which takes no key of yours",
        )  # fmt: skip
    if not has_local_disk(resources["InstanceType"]) and not resources.get("VolumeSizeInGB"):
        yield Fault("no-volume", "ResourceConfig.VolumeSizeInGB", "this instance has no disk without it")


def _times(body: Mapping[str, Any]) -> Iterator[Fault]:
    condition, spot = body.get("StoppingCondition", {}), body.get("EnableManagedSpotTraining", False)
    longest, wait = condition.get("MaxRuntimeInSeconds"), condition.get("MaxWaitTimeInSeconds")
    field, running = "StoppingCondition.MaxWaitTimeInSeconds", "StoppingCondition.MaxRuntimeInSeconds"
    if longest is None:
        yield Fault("no-max-runtime", running, "is missing, and a job that hangs costs until it ends")
    elif longest > MAX_RUNTIME:
        yield Fault("max-runtime-too-long", running, f"{longest} s, at most {MAX_RUNTIME} s")
    if spot and wait is None:
        yield Fault("spot-without-max-wait", field, "spot needs how long to wait for it, running included")
    if spot and wait is not None and longest is not None and wait < longest:
        yield Fault("max-wait-below-max-runtime", field, f"{wait} s is shorter than the run's {longest} s")
    if not spot and wait is not None:
        yield Fault("max-wait-without-spot", field, "only spot waits")
    if spot and "CheckpointConfig" not in body:
        yield Fault("spot-without-checkpoints", "CheckpointConfig", "an interrupted run would begin anew")
    if spot and body.get("ResourceConfig", {}).get("KeepAlivePeriodInSeconds"):
        yield Fault("spot-with-warm-pool", "ResourceConfig.KeepAlivePeriodInSeconds", "spot has none")


def _places(body: Mapping[str, Any]) -> Iterator[Fault]:
    output = body["OutputDataConfig"]["S3OutputPath"]
    checkpoints = body.get("CheckpointConfig", {}).get("S3Uri", "")
    if not body["OutputDataConfig"].get("KmsKeyId"):
        yield Fault("output-not-encrypted", "OutputDataConfig.KmsKeyId", "a key, such as alias/aws/s3")
    channels = body.get("InputDataConfig", ())
    if not any(channel["ChannelName"] == "input" for channel in channels):
        yield Fault("no-input", "InputDataConfig", "a channel named input")
    for number, channel in enumerate(channels):
        where, source = f"InputDataConfig[{number}]", channel["DataSource"].get("S3DataSource")
        if source is None:
            yield Fault("input-not-in-s3", where, "only S3DataSource is made for")
            continue
        uri = source["S3Uri"]
        if any(_below(place, uri) for place in (output, checkpoints) if place):
            yield Fault("output-inside-input", where, f"what is written lies below {uri}")
        if source["S3DataType"] == "S3Prefix" and not uri.endswith("/"):
            yield Fault("open-input-prefix", where, f"{uri} also means {uri}-2; end it with /")
    if checkpoints and checkpoints.rstrip("/") == output.rstrip("/"):
        yield Fault("checkpoints-are-output", "CheckpointConfig.S3Uri", "a prefix of its own, for it expires")
    local = body.get("CheckpointConfig", {}).get("LocalPath", "/opt/ml/checkpoints")
    if local.rstrip("/") != "/opt/ml/checkpoints":
        yield Fault(
            "checkpoints-elsewhere", "CheckpointConfig.LocalPath", "the container knows /opt/ml/checkpoints"
        )


def _closed(body: Mapping[str, Any]) -> Iterator[Fault]:
    """What an isolated container cannot do, and what everybody with a right to look would see."""
    environment = body.get("Environment", {})
    for field in ("Environment", "HyperParameters"):
        for name, text in body.get(field, {}).items():
            if _SECRET.search(name) or _KEY_ID.search(text):
                yield Fault("secret-in-clear", f"{field}.{name}", "whoever may describe the job can read it")
    if body.get("EnableNetworkIsolation"):
        for name in ("S3_INPUT_URI", "S3_OUTPUT_URI"):
            if environment.get(name):
                yield Fault("isolated-with-s3", f"Environment.{name}", "an isolated container reaches no S3")
    else:
        yield Fault("not-isolated", "EnableNetworkIsolation", "a run needs no network")
    keys = [tag["Key"] for tag in body.get("Tags", ())]
    for key in sorted({k for k in keys if keys.count(k) > 1}):
        yield Fault("tag-twice", "Tags", key)
    for key in (k for k in keys if k.lower().startswith("aws:")):
        yield Fault("tag-reserved", "Tags", key)


def _below(place: str, folder: str) -> bool:
    return place.rstrip("/").startswith(folder.rstrip("/") + "/") or place.rstrip("/") == folder.rstrip("/")


_Rule = Callable[[Mapping[str, Any]], Iterator[Fault]]
_RULES: tuple[_Rule, ...] = (_names, _one_machine, _times, _places, _closed)
