"""What goes in and out of the API, as pydantic models: they validate, and they are the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE = {
    "s3Url": "s3://bucket/flights/2026-03-02",
    "email": "pilot@example.com",
    "pipelineStep": "full",
    "presets": ["production"],
}
"""A request as in the documentation."""


class StartJob(BaseModel):
    """A job to start: one source, and what to do with it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, json_schema_extra={"examples": [EXAMPLE]}
    )

    s3Url: str = Field("", description="photographs in a bucket: a prefix, a zip or a video")
    source: str = Field("", description="instead of s3Url: a path on the machine, below an allowed folder")
    email: str = Field("", description="who is told how it ended; empty: nobody")
    pipelineStep: Literal["full", "3dgs", "compression"] = Field(
        "full", description="all stages; from a COLMAP folder or a run with cameras; from a PLY"
    )
    name: str = Field("", description="of the job, [a-z0-9-], 41 at the most; empty: one is made")
    presets: tuple[str, ...] = Field((), description="names, later ones win", max_length=10)
    overrides: tuple[str, ...] = Field((), description="stage.name=value, over presets", max_length=50)
    priority: int = Field(0, ge=-10, le=10, description="higher goes first")
    webhook: str = Field("", description="https address that is told how it ended, on an allowed host")
    outputUrl: str = Field("", description="s3:// address, below an allowed one, that results go to")


class Problem(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="number of the error, see docs/errors.md", examples=["SL-740"])
    message: str = Field(description="what is wrong, one sentence")
    got: str = Field("", description="what came instead")
    expected: str = Field("", description="what would have been right")
    hint: str = Field("", description="the first thing to try")


class Started(BaseModel):
    """A job that is in the queue."""

    jobId: str
    name: str
    state: str
    status: str = Field(description="where its state is, relative to the service's address")
    events: str = Field(description="where its progress can be followed")


class StageView(BaseModel):
    """One stage of a job."""

    name: str
    status: str = Field(description="pending, running, succeeded, failed or interrupted")
    seconds: float | None = None
    cost: float | None = Field(None, description="[USD]")


class FailureView(BaseModel):
    """Why a job failed."""

    code: str
    stage: str
    message: str
    hint: str


class JobView(BaseModel):
    """A job as the API shows it: no secrets, no path of the machine."""

    jobId: str
    name: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    pipelineStep: str
    source: str
    presets: list[str]
    priority: int
    stage: str
    progress: float = Field(description="of the whole run, 0 to 1")
    message: str
    attempt: int
    maxAttempts: int
    cancelRequested: bool
    created: float | None = Field(description="[s] since 1970")
    started: float | None = None
    ended: float | None = None
    stages: list[StageView]
    cost: float | None = Field(None, description="[USD] what the run cost so far, where prices are known")
    warnings: list[str] = []
    failure: FailureView | None = None
    files: dict[str, str] = Field({}, description="what can be opened, and where")


class JobList(BaseModel):
    """Jobs, newest first, and how many there are of each state."""

    jobs: list[JobView]
    counts: dict[str, Any]


class About(BaseModel):
    """What the start page has to know."""

    version: str
    presets: dict[str, str] = Field(description="name and what it is for")
    scenes: list[str] = Field(description="folders that a local source can be named after")
    s3Prefixes: list[str]
    outputPrefixes: list[str]
    webhookHosts: list[str]
