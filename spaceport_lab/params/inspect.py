"""Parameters of the inspect stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spaceport_lab.params.base import StageParams


class InspectParams(StageParams):
    """What is rendered for the eye."""

    max_views: int = Field(
        8, ge=1, description="[count] worst held-out views kept as pictures; metrics use all of them"
    )
    picture_size: int = Field(960, ge=64, le=8192, description="[px] longest side of the pictures kept")
    backend: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="[name] rasterizer of the held-out views; auto takes gsplat on CUDA where it can run",
    )
