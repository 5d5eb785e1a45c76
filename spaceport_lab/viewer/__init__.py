"""Splats to look at and to turn: a page, two side by side with linked cameras, frames for notebooks."""

from spaceport_lab.viewer.frames import (
    Frame,
    LiveFrame,
    before_and_after,
    confidence_viewer,
    live_scene,
    notebook_viewer,
)
from spaceport_lab.viewer.live import LiveScene
from spaceport_lab.viewer.page import (
    TEMPLATES,
    data_url,
    default_viewpoint,
    environment,
    policy,
    quaternion_xyzw,
    script_json,
    viewer_html,
    viewer_iframe,
    world_to_viewer,
    write_viewer,
)
from spaceport_lab.viewer.pair import Side, pair_html, write_pair

__all__ = [
    "TEMPLATES",
    "Frame",
    "LiveFrame",
    "LiveScene",
    "Side",
    "before_and_after",
    "confidence_viewer",
    "data_url",
    "default_viewpoint",
    "environment",
    "live_scene",
    "notebook_viewer",
    "pair_html",
    "policy",
    "quaternion_xyzw",
    "script_json",
    "viewer_html",
    "viewer_iframe",
    "world_to_viewer",
    "write_pair",
    "write_viewer",
]
