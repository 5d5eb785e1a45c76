"""Parameters of the ingest stage."""

from __future__ import annotations

from pydantic import Field

from spaceport_lab.params.base import StageParams


class IngestParams(StageParams):
    """Which photographs are taken in, and which are left out."""

    source: str = Field(
        "",
        description="[path] folder or zip of photographs; empty: images/ of the scene",
        json_schema_extra={"key": False},
    )
    exclude_duplicates: bool = Field(True, description="[bool] leave out files whose content was seen before")
    min_side: int = Field(256, ge=16, description="[px] leave out photographs whose shorter side is smaller")
    min_sharpness: float = Field(
        0.1,
        ge=0,
        le=1,
        description="[ratio] leave out photographs blurrier than this share of the median; 0 keeps all",
    )
    max_clipped: float = Field(
        0.9,
        gt=0,
        le=1,
        description="[share] leave out photographs with more pixels than this at pure black or white",
    )
    max_archive_gb: float = Field(50.0, gt=0, description="[GB] refuse an archive that unpacks to more")
