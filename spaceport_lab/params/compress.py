"""Parameters of the compress stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spaceport_lab.params.base import StageParams


class CompressParams(StageParams):
    """How small the .sog becomes, and what it may cost."""

    ply: str = Field(
        "",
        description="[path] PLY to compress; empty: the one the train stage made",
        json_schema_extra={"key": False},
    )
    setting: Literal["balanced", "quality", "small", "no-sh", "auto"] = Field(
        "balanced",
        description="[name] how small; auto takes the smallest that loses at most auto_max_loss",
    )
    auto_max_loss: float = Field(0.3, ge=0, description="[dB] held-out PSNR that the setting auto may lose")
    sh_degree: int = Field(3, ge=0, le=3, description="[degree] SH bands above this one are dropped")
    sh_palette: int = Field(
        0,
        ge=0,
        le=65536,
        description="[count] SH palette entries; 0 chooses by the setting and the number of Gaussians",
    )
    iterations: int = Field(
        6, ge=1, le=100, description="[count] k-means iterations for the SH palette, at the most"
    )
    far_splats: Literal["pull", "keep"] = Field(
        "pull",
        description="[name] the few splats far outside: pull them in, or keep them and lose precision",
    )
    backend: Literal["auto", "cpu", "cuda", "sogs"] = Field(
        "auto",
        description="[name] what renders and finds the palette; sogs is PlayCanvas' own writer, on CUDA",
    )
    max_psnr_loss: float = Field(
        1.0, gt=0, description="[dB] quality gate on held-out PSNR lost by compressing"
    )
    min_ratio: float = Field(2.0, ge=0, description="[ratio] quality gate on PLY bytes over .sog bytes")
    seed: int = Field(0, ge=0, description="[number] random seed of the k-means")
