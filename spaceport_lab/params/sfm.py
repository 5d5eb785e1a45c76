"""Parameters of the sfm stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from spaceport_lab.params.base import StageParams


class SfmParams(StageParams):
    """How COLMAP finds cameras and points, and how good they must be."""

    import_path: str = Field(
        "",
        description="[path] COLMAP folder to take over instead of reconstructing; empty: reconstruct",
        json_schema_extra={"key": False},
    )
    import_images: str = Field(
        "", description="[path] images of the model taken over; empty: images/ in or beside its folder"
    )
    profile: Literal["auto", "fast", "balanced", "high"] = Field(
        "auto", description="[name] how much is looked at; auto goes by count, size and GPS"
    )
    max_image_size: int = Field(
        0, ge=0, description="[px] longest side when features are extracted, 320 or more; 0 as in the profile"
    )
    max_num_features: int = Field(
        0, ge=0, description="[count] SIFT features kept per photograph, 256 or more; 0 as in the profile"
    )
    upsample_below: int = Field(
        1200,
        ge=0,
        description="[px] photographs with a longer side under this are doubled to find features; 0 never",
    )
    matching: Literal["auto", "spatial", "exhaustive", "sequential"] = Field(
        "auto", description="[name] which pairs are matched; auto takes spatial when GPS is there"
    )
    spatial_neighbors: int = Field(
        0, ge=0, description="[count] nearest photographs each one is matched with; 0 as in the profile"
    )
    mapper: Literal["auto", "incremental", "global"] = Field(
        "auto", description="[name] which mapper runs; auto runs both and keeps the better model"
    )
    retry: bool = Field(
        True,
        description="[bool] a second attempt, all pairs and the next profile, when the first is poor",
    )
    camera_model: Literal["auto", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"] = Field(
        "SIMPLE_RADIAL",
        description="[name] COLMAP camera model; auto: a richer one where photographs settle it",
    )
    georeference: bool = Field(True, description="[bool] align the model to GPS, local east-north-up metres")
    train_size: int = Field(
        1600, ge=64, description="[px] longest side of the undistorted images that training reads"
    )
    jpeg_quality: int = Field(
        96, ge=50, le=100, description="[percent] of the undistorted images, where photographs are JPEG"
    )
    cache_gb: float = Field(
        4.0,
        ge=0,
        description="[GB] features and matches kept beside the runs for the next one; 0 keeps none",
        json_schema_extra={"key": False},
    )
    min_points: int = Field(1000, ge=1, description="[count] quality gate on the number of 3D points")
    min_registered: float = Field(
        0.5, ge=0, lt=1, description="[share] quality gate, more than this share of photographs registered"
    )
    time_limit_min: float = Field(240.0, gt=0, description="[min] COLMAP is stopped after this time")
    seed: int = Field(0, ge=0, description="[number] random seed of RANSAC and of the mappers")

    @field_validator("max_image_size", "max_num_features", "spatial_neighbors")
    @classmethod
    def _zero_or_enough(cls, value: int, info: ValidationInfo) -> int:
        least = {"max_image_size": 320, "max_num_features": 256, "spatial_neighbors": 2}[info.field_name]
        if 0 < value < least:
            raise ValueError(f"must be 0, which leaves it to the profile, or at least {least}")
        return value
