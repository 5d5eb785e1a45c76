"""Parameters of the train stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spaceport_lab.params.base import StageParams

LIVE = {"live": True}
"""Marks what may change while training runs."""


class TrainParams(StageParams):
    """How Gaussians are optimised, grown, and when to stop.

    What shapes a run is a share of `max_steps`, so that 300 and 30,000 steps follow the same course; what
    gathers statistics or needs time to recover (refine_every, reset_every) is in steps.
    """

    backend: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="[name] rasterizer; auto takes gsplat on CUDA where it can run, else numba"
    )
    max_steps: int = Field(
        7000, ge=1, description="[steps] optimisation steps at the most", json_schema_extra=LIVE
    )
    test_every: int = Field(8, ge=2, description="[count] every nth image by name is held out for metrics")
    init_from: str = Field("", description="[path] PLY or checkpoint to start from; empty: the sparse points")
    init_points: int = Field(
        0, ge=0, description="[count] random subsample of the sparse points to start from; 0 takes all"
    )
    init_fill: float = Field(
        1.0, ge=0, description="[ratio] points laid between neighbouring sparse points, for each of these"
    )
    init_opacity: float = Field(0.1, gt=0, lt=1, description="[opacity] of every Gaussian at the start")
    init_scale: float = Field(
        1.0, gt=0, description="[ratio] size of the first Gaussians over the distance of their neighbours"
    )
    backdrop: bool = Field(
        True, description="[bool] lay coarse ground under and around a flight, for gaps and edges"
    )
    masks: bool = Field(True, description="[bool] leave out what the scene's masks folder hides")
    background: Literal["black", "random"] = Field(
        "black",
        description="[name] what shows through in training; random discourages holes",
        json_schema_extra=LIVE,
    )
    dropout: float = Field(
        1.4,
        ge=0,
        description="[ratio] share of Gaussians a step leaves out at random, times training photographs",
        json_schema_extra=LIVE,
    )
    ssim_lambda: float = Field(
        0.2, ge=0, le=1, description="[share] weight of SSIM beside L1 in the loss", json_schema_extra=LIVE
    )
    sh_degree: int = Field(3, ge=0, le=3, description="[degree] spherical harmonics of the colours")
    sh_degree_interval: float = Field(
        0.1,
        ge=0,
        le=1,
        description="[share of max_steps] one more SH degree is trained after each interval",
        json_schema_extra=LIVE,
    )
    shN_every: int = Field(
        4,
        ge=1,
        description="[steps] between two that train SH bands above degree 0, most of a Gaussian's numbers",
        json_schema_extra=LIVE,
    )
    means_lr: float = Field(
        1.6e-4,
        gt=0,
        description="[1/step] learning rate of positions, times scene scale",
        json_schema_extra=LIVE,
    )
    scales_lr: float = Field(
        5e-3, gt=0, description="[1/step] learning rate of log scales", json_schema_extra=LIVE
    )
    opacities_lr: float = Field(
        3.5e-2, gt=0, description="[1/step] learning rate of opacity logits", json_schema_extra=LIVE
    )
    quats_lr: float = Field(
        1e-3, gt=0, description="[1/step] learning rate of rotations", json_schema_extra=LIVE
    )
    sh0_lr: float = Field(
        2.5e-3, gt=0, description="[1/step] learning rate of base colours", json_schema_extra=LIVE
    )
    shN_lr: float = Field(
        1.25e-4, gt=0, description="[1/step] learning rate of higher SH bands", json_schema_extra=LIVE
    )
    means_lr_final: float = Field(
        0.1,
        gt=0,
        le=1,
        description="[ratio] means_lr at the end over the start; the paper has 0.01 at 30,000 steps",
        json_schema_extra=LIVE,
    )
    cooldown: float = Field(
        0.1,
        ge=0,
        le=1,
        description="[share of max_steps] at the end, in which all learning rates go down to nothing",
        json_schema_extra=LIVE,
    )
    strategy: Literal["default", "mcmc"] = Field(
        "default",
        description="[name] densification, ADC of the 3DGS paper, or MCMC",
    )
    refine_start: float = Field(
        0.05, ge=0, le=1, description="[share of max_steps] densification begins", json_schema_extra=LIVE
    )
    refine_stop: float = Field(
        0.6,
        ge=0,
        le=1,
        description="[share of max_steps] densification ends; later where images have no full size yet",
        json_schema_extra=LIVE,
    )
    refine_every: int = Field(
        100, ge=1, description="[steps] between two densifications", json_schema_extra=LIVE
    )
    reset_every: int = Field(
        0,
        ge=0,
        description="[steps] between two opacity resets while densifying; 0 never, 3000 in the paper",
        json_schema_extra=LIVE,
    )
    absgrad: bool = Field(
        False,
        description="[bool] densify by summed absolute gradients (AbsGS); wants about 4 times grow_grad2d",
    )
    grow_grad2d: float = Field(
        0.0,
        ge=0,
        description="[NDC] mean view-space gradient above which a Gaussian grows; 0 finds it from grow_to",
        json_schema_extra=LIVE,
    )
    grow_to: int = Field(
        0,
        ge=0,
        description="[count] Gaussians that automatic growth and MCMC aim at; 0: what fits the scene",
        json_schema_extra=LIVE,
    )
    grow_ratio: float = Field(
        1.0,
        gt=0,
        description="[ratio] of the Gaussians that fit the scene, where grow_to is 0",
        json_schema_extra=LIVE,
    )
    percent_dense: float = Field(
        0.01,
        gt=0,
        description="[share of scene scale] larger Gaussians split, smaller ones clone",
        json_schema_extra=LIVE,
    )
    revised_opacity: bool = Field(
        True, description="[bool] the two of a clone or split are as opaque together as the one"
    )
    prune_opa: float = Field(
        5e-3,
        ge=0,
        lt=1,
        description="[opacity] more transparent Gaussians are pruned",
        json_schema_extra=LIVE,
    )
    cap_max: int = Field(
        1_000_000,
        ge=1,
        description="[count] Gaussians at the most; lowered where memory is short",
        json_schema_extra=LIVE,
    )
    mcmc_noise: float = Field(
        5e5, ge=0, description="[ratio] MCMC position noise over the learning rate", json_schema_extra=LIVE
    )
    mcmc_opacity_reg: float = Field(
        0.01, ge=0, description="[weight] MCMC loss on opacities", json_schema_extra=LIVE
    )
    mcmc_scale_reg: float = Field(
        0.01, ge=0, description="[weight] MCMC loss on sizes over scene scale", json_schema_extra=LIVE
    )
    coarse_to_fine: Literal["none", "step", "frequency"] = Field(
        "frequency",
        description="[name] resolution schedule; frequency follows the spectra of the photographs",
        json_schema_extra=LIVE,
    )
    blur: float = Field(
        0.0,
        ge=0,
        description="[pixels] sigma by which photographs are blurred at first; 0 never",
        json_schema_extra=LIVE,
    )
    blur_stop: float = Field(
        0.5, ge=0, le=1, description="[share of max_steps] the blur has gone", json_schema_extra=LIVE
    )
    lowpass: bool = Field(
        False,
        description="[bool] at first spread Gaussians so that they cover the image",
        json_schema_extra=LIVE,
    )
    exposure: bool = Field(False, description="[bool] learn exposure and white balance of each photograph")
    exposure_lr: float = Field(
        1e-2, gt=0, description="[1/step] learning rate of exposures", json_schema_extra=LIVE
    )
    refine_cameras: bool = Field(False, description="[bool] let training cameras move a little")
    cameras_lr: float = Field(
        1e-3,
        gt=0,
        description="[1/step] learning rate of cameras, times scene scale",
        json_schema_extra=LIVE,
    )
    prune_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="[share] of Gaussians that views would miss least, pruned in steps once grown",
        json_schema_extra=LIVE,
    )
    prune_sh: float = Field(
        0.0,
        ge=0,
        description="[grey levels] SH bands that change colours less are dropped; 0 keeps all",
    )
    target_psnr: float = Field(
        0.0,
        ge=0,
        description="[dB] stop when PSNR on validation views reaches this; 0 never",
        json_schema_extra=LIVE,
    )
    patience: int = Field(
        2000,
        ge=0,
        description="[steps] stop after this long without a better PSNR on validation views; 0 never",
        json_schema_extra=LIVE,
    )
    min_delta: float = Field(0.02, ge=0, description="[dB] what counts as better", json_schema_extra=LIVE)
    min_steps: int = Field(
        0, ge=0, description="[steps] before which nothing stops early", json_schema_extra=LIVE
    )
    eval_every: int = Field(
        500, ge=1, description="[steps] between two evaluations on held-out views", json_schema_extra=LIVE
    )
    checkpoint_every: int = Field(
        500,
        ge=1,
        description="[steps] between two checkpoints",
        json_schema_extra={"key": False, "live": True},
    )
    cache_gb: float = Field(
        4.0,
        gt=0,
        description="[GB] photographs kept in memory at the most; others are read again",
        json_schema_extra={"key": False},
    )
    timelapse: bool = Field(True, description="[bool] keep a picture of one view now and then, as a GIF")
    tensorboard: bool = Field(
        False,
        description="[bool] write the metrics for TensorBoard too",
        json_schema_extra={"key": False},
    )
    seed: int = Field(42, ge=0, description="[number] random seed")
