"""What a container is told: by its environment, and by the files SageMaker puts under /opt/ml.

    S3_INPUT_URI, S3_OUTPUT_URI     where from and where to, for a container that may use the network
    SM_CHANNEL_INPUT                folder with the input; wins over S3_INPUT_URI when it has files
    SM_OUTPUT_DATA_DIR              folder that SageMaker packs and keeps
    SM_CURRENT_HOST, SM_HOSTS       this machine and all of the job; only the first works
    LOG_LEVEL                       DEBUG, INFO, WARNING, ERROR, CRITICAL
    SM_HP_JOB, _STEPS, _PRESETS     hyperparameters: the job's name, its steps, presets with commas between
    SM_HP_TRAIN.MAX_STEPS           a parameter of a stage; any STAGE.NAME

A hyperparameter in the environment wins over the same one in hyperparameters.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spaceport_lab.aws.address import Address
from spaceport_lab.errors import InputError, ParamsError
from spaceport_lab.logs import log_level
from spaceport_lab.naming import STEPS
from spaceport_lab.params import STAGES

OPT_ML = Path("/opt/ml")
"""Where SageMaker puts and expects everything."""
_PREFIX = "SM_HP_"
_KNOWN = ("job", "steps", "presets", "scene")


@dataclass(frozen=True)
class Container:
    """What a container has to do, and where.

    Attributes:
        source: local folder with the input, or an s3:// address.
        output: s3:// prefix of all runs, or empty.
        checkpoints: folder that outlives this machine, for scenes and runs.
        results: folder whose content is kept when the job ends.
        failure: file for the reason of a failure, at most 1024 characters.
        job: the job's name.
        steps: full, 3dgs or compression.
        presets: names, later ones win.
        overrides: `STAGE.NAME=VALUE`.
        scene: the scene's name, or empty.
        host: this machine's name.
        first: whether it is the first of the job's machines.
        log_level: a key of the standard library's levels.
    """

    source: str
    output: str
    checkpoints: Path
    results: Path
    failure: Path
    job: str
    steps: str = "full"
    presets: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    scene: str = ""
    host: str = "localhost"
    first: bool = True
    log_level: str = "INFO"


def read_container(environment: Mapping[str, str] = os.environ, opt_ml: Path = OPT_ML) -> Container:
    """Understand what this container was started for.

    Raises:
        InputError: no input, or an address that is none.
        ParamsError: a hyperparameter or LOG_LEVEL that is not known.
    """
    config = opt_ml / "input" / "config"
    given = _hyperparameters(environment, config / "hyperparameters.json")
    overrides = tuple(f"{name}={text}" for name, text in sorted(given.items()) if "." in name)
    unknown = [name for name in given if name not in _KNOWN and name.partition(".")[0] not in STAGES]
    if unknown:
        raise ParamsError(
            "unknown hyperparameters",
            got=", ".join(sorted(unknown)),
            expected=f"{', '.join(_KNOWN)}, or a stage's own such as train.max_steps",
        )
    steps = given.get("steps", "full")
    if steps not in STEPS:
        raise ParamsError("there are no such steps", got=steps, expected=", ".join(STEPS))
    hosts = _hosts(environment, config / "resourceconfig.json")
    output = environment.get("S3_OUTPUT_URI", "").strip()
    return Container(
        source=_source(environment, opt_ml),
        output=str(Address.parse(output)) if output else "",
        checkpoints=opt_ml / "checkpoints",
        results=Path(environment.get("SM_OUTPUT_DATA_DIR") or opt_ml / "output" / "data"),
        failure=failure_path(environment, opt_ml),
        job=given.get("job") or environment.get("TRAINING_JOB_NAME", "").lower() or "sagemaker",
        steps=steps,
        presets=tuple(p.strip() for p in given.get("presets", "").split(",") if p.strip()),
        overrides=overrides,
        scene=given.get("scene", ""),
        host=hosts[0],
        first=hosts[0] == min(hosts[1:], default=hosts[0], key=lambda h: (len(h), h)),
        log_level=log_level(environment),
    )


def failure_path(environment: Mapping[str, str] = os.environ, opt_ml: Path = OPT_ML) -> Path:
    """Where the reason of a failure goes, also when nothing else of the environment can be used."""
    return Path(environment.get("SM_OUTPUT_DIR") or opt_ml / "output") / "failure"


def _source(environment: Mapping[str, str], opt_ml: Path) -> str:
    channel = Path(environment.get("SM_CHANNEL_INPUT") or opt_ml / "input" / "data" / "input")
    if channel.is_dir() and any(channel.iterdir()):
        return str(channel)
    address = environment.get("S3_INPUT_URI", "").strip()
    if address:
        return str(Address.parse(address))
    raise InputError(
        "the container was given no input",
        got=f"no files in {channel}, and no S3_INPUT_URI",
        expected="a channel named input, or S3_INPUT_URI=s3://bucket/site/",
    )


def _hyperparameters(environment: Mapping[str, str], path: Path) -> dict[str, str]:
    """Name in lower case → text. SDKs write texts as JSON, so a quoted one loses its quotes."""
    given: dict[str, Any] = _json(path, dict)
    for name, text in environment.items():
        if name.startswith(_PREFIX):
            given[name.removeprefix(_PREFIX).lower()] = text
    return {str(name).lower().replace("-", "_"): _unquoted(text) for name, text in given.items()}


def _unquoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        try:
            return str(json.loads(text))
        except ValueError:
            return text
    return text


def _hosts(environment: Mapping[str, str], path: Path) -> list[str]:
    """This host, then all of the job."""
    config = _json(path, dict)
    current = environment.get("SM_CURRENT_HOST") or config.get("current_host") or "localhost"
    try:
        hosts = json.loads(environment.get("SM_HOSTS", "")) or []
    except ValueError:
        hosts = config.get("hosts") or []
    return [str(current), *(str(host) for host in hosts if isinstance(hosts, list))]


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise ParamsError(f"{path} cannot be read", got=str(error), expected="JSON") from error
    if not isinstance(content, kind):
        raise ParamsError(f"{path} holds something else", got=type(content).__name__, expected=kind.__name__)
    return content
