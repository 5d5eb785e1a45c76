"""docs/errors.md explains each number that errors.py gives, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spaceport_lab import errors
from spaceport_lab.errors import SpaceportError

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"
KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SpaceportError)
]
_HEAD, *_PARTS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
SECTIONS = {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1] for part in _PARTS}


def test_each_error_has_a_number_of_its_own() -> None:
    codes = [vars(kind).get("code") for kind in KINDS]
    assert all(re.fullmatch(r"SL-\d{3}", str(code)) for code in codes), "each class sets its own code"
    assert len(set(codes)) == len(codes)


def test_each_number_has_a_section_and_each_section_a_number() -> None:
    assert list(SECTIONS) == sorted(kind.code for kind in KINDS)
    assert len(_PARTS) == len(SECTIONS), "a number is explained twice"


@pytest.mark.parametrize("code", SECTIONS)
def test_a_section_says_meaning_causes_and_what_to_do(code: str) -> None:
    text = SECTIONS[code]
    assert re.match(r"\n\*\*[^*]{20,}\*\*", text), "first what it means, in bold"
    for point in ("- Causes: ", "- First: "):
        assert text.count(point) == 1
        assert len(text.split(point)[1].split("\n- ")[0]) > 30


def test_a_special_case_counts_within_the_hundred_of_what_it_is() -> None:
    for kind in KINDS:
        for above in kind.__mro__[1:]:
            if above in KINDS and above is not SpaceportError:
                assert kind.code[:4] == above.code[:4]
                assert kind.code > above.code


def test_parameters_it_names_exist() -> None:
    from spaceport_lab.params import SCHEMAS

    for stage, name in re.findall(
        r"`(?:--set )?(ingest|sfm|train|compress|inspect)\.(\w+)", PAGE.read_text()
    ):
        assert name in SCHEMAS[stage].model_fields, f"{stage}.{name}"
