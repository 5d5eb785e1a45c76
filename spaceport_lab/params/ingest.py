"""Parameters of the ingest stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spaceport_lab.params.base import StageParams


class IngestParams(StageParams):
    """Which photographs are taken in, and which are left out."""

    source: str = Field(
        "",
        description="[path] folder, zip, video, transforms.json, s3:// address; empty: images/ of the scene",
        json_schema_extra={"key": False},
    )
    keep: str = Field(
        "",
        description="[names] keep these photographs whatever is said against them, separated by commas",
    )
    exclude_duplicates: bool = Field(
        True, description="[bool] leave out pictures that were seen before, or nearly the same"
    )
    max_similarity: float = Field(
        0.9,
        gt=0,
        le=1,
        description="[ratio] near-duplicate: details correlate with an earlier one by more; 1 only copies",
    )
    min_side: int = Field(256, ge=16, description="[px] leave out photographs whose shorter side is smaller")
    min_sharpness: float = Field(
        0.25,
        ge=0,
        le=1,
        description="[ratio] leave out photographs blurrier than this share of their neighbours; 0 none",
    )
    max_clipped: float = Field(
        0.8,
        gt=0,
        le=1,
        description="[share] leave out photographs with more pixels than this at pure black or white",
    )
    min_brightness: float = Field(
        0.04, ge=0, le=1, description="[share] leave out darker photographs, by their mean"
    )
    max_brightness: float = Field(
        0.96, ge=0, le=1, description="[share] leave out brighter photographs, by their mean"
    )
    other_cameras: Literal["exclude", "warn", "keep"] = Field(
        "exclude",
        description="[rule] one or two of another camera or size in a set of one; of more it is said",
    )
    max_gps_jump: float = Field(
        5.0,
        ge=0,
        description="[ratio] drop GPS that needs more than this times the usual speed; 0 believes all",
    )
    flying_height: float = Field(
        0.0, ge=0, description="[m] usual height above ground, for drones that do not write it; 0 unknown"
    )
    min_overlap: float = Field(
        0.6, ge=0, le=1, description="[share] warn where the estimated overlap is lower"
    )
    sky_mask: bool = Field(
        False, description="[bool] hide the sky of photographs whose gimbal looks to the horizon, by masks"
    )
    video_start: float = Field(0.0, ge=0, description="[s] of a video: take frames from here")
    video_stop: float = Field(0.0, ge=0, description="[s] of a video: to here; 0 to its end")
    video_every: float = Field(
        0.5, gt=0, description="[s] of a video: one frame, the sharpest, of each stretch this long"
    )
    video_frames: int = Field(
        200, ge=3, description="[frames] of a video: take at most so many, further apart"
    )
    max_archive_gb: float = Field(
        50.0, gt=0, description="[GB] refuse an archive or download that is larger unpacked"
    )
