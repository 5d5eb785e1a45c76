"""Names of jobs and scenes: always usable, and saying something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaceport_lab.naming import JOB_NAME, STAGE_SUFFIX, STEPS, new_name, scene_of
from spaceport_lab.params import STAGES


def test_steps_are_stages_in_order_and_each_has_a_name() -> None:
    for stages in STEPS.values():
        assert list(stages) == [stage for stage in STAGES if stage in stages]
    assert set(STAGE_SUFFIX) == set(STAGES)
    longest = new_name("x" * 40, 0)[:41] + "-" + max(STAGE_SUFFIX.values(), key=len)
    assert len(longest) <= 63, "SageMaker's limit"


@given(st.text(max_size=60), st.floats(0, 4e9))
def test_a_made_name_is_always_a_name(source: str, now: float) -> None:
    assert JOB_NAME.fullmatch(new_name(source, now))


@pytest.mark.parametrize(
    ("source", "scene"),
    [
        ("/flights/Old Town", "old-town"),
        ("/flights/town/images/", "town"),
        ("/data/town/runs/night-1", "town"),
        ("s3://bucket/town.zip", "town"),
        ("/x/truck/point_cloud.ply", "truck"),
        ("/", "scene"),
        ("images", "images"),
    ],
)
def test_a_made_name_says_which_scene(source: str, scene: str) -> None:
    assert scene_of(source) == scene
