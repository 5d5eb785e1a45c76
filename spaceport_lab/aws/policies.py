"""The files of deploy/ with their placeholders filled in.

    python -m spaceport_lab.aws.policies deploy/iam/job.json ACCOUNT=123456789012 BUCKET=my-bucket …

A placeholder is `${NAME}` inside a text of the JSON. Each value is checked by its own rule, so that none can
widen a policy; a missing one is an error.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spaceport_lab.errors import ParamsError, SpaceportError

VALUES: dict[str, str] = {
    "PARTITION": r"aws(-[a-z]+)*",
    "REGION": r"[a-z]{2}(-[a-z]+)+-\d",
    "ACCOUNT": r"\d{12}",
    "BUCKET": r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "KMS_KEY_ARN": r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+",
    "REPOSITORY": r"[a-z0-9]+([._/-][a-z0-9]+)*",
    "JOB_ROLE": r"[\w+=,.@-]{1,64}",
    "NOTEBOOK": r"[a-zA-Z0-9](-*[a-zA-Z0-9])*",
}
"""Placeholders and what may stand for them."""
DEFAULTS = {"PARTITION": "aws", "REPOSITORY": "spaceport-lab", "JOB_ROLE": "spaceport-job"}
_PLACEHOLDER = re.compile(r"\$\{([A-Z_]+)\}")


def render(path: Path, values: Mapping[str, str]) -> dict[str, Any]:
    """Read a JSON file and fill in its placeholders.

    Raises:
        ParamsError: the file is no JSON; a value is missing, not known, or not what its name says.
    """
    for name, value in values.items():
        if name not in VALUES:
            raise ParamsError("unknown placeholder", got=name, expected=", ".join(VALUES))
        if not re.fullmatch(VALUES[name], value):
            raise ParamsError(f"this is no {name}", got=repr(value), expected=VALUES[name])
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ParamsError("the file cannot be read", got=f"{path}: {error}") from error
    return _filled(content, {**DEFAULTS, **values}, Path(path))


def _filled(node: Any, values: Mapping[str, str], path: Path) -> Any:
    if isinstance(node, dict):
        return {key: _filled(value, values, path) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(item, values, path) for item in node]
    if not isinstance(node, str):
        return node

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ParamsError(f"{path.name} needs {found[1]}", hint=f"add {found[1]}=…")
        return values[found[1]]

    return _PLACEHOLDER.sub(value, node)


def main(arguments: list[str]) -> int:
    """`FILE NAME=VALUE …`: the filled-in file on standard output."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        values = dict(word.partition("=")[::2] for word in arguments[1:])
        print(json.dumps(render(Path(arguments[0]), values), indent=2))
    except SpaceportError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
