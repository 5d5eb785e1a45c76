"""A page per deployment: each command and option on it is one that there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from spaceport_lab.cli import app

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("laptop", "notebook-instance", "sagemaker", "ray-cluster")


def commands(page: str) -> list[list[str]]:
    """The words of each `spaceport-lab …` in the page's blocks of commands."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.search(r"\bspaceport-lab (?=[a-z])(.*)", line) for line in lines]
    return [shlex.split(one[1], comments=True) for one in found if one and "install" not in one.string]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_the_page_is_one(page: str) -> None:
    found = commands(page)
    assert found, "a page without commands"
    for words in found:
        command: Any = get_command(app)
        rest = list(words)
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, words
            command = command.commands[rest.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
        asked = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert asked <= known | {"--help"}, words
