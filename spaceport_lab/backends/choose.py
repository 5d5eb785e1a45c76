"""Which rasterizer can run here, and why not the other one."""

from __future__ import annotations

import functools
import logging

import torch

from spaceport_lab.errors import BackendError

logger = logging.getLogger(__name__)

# gsplat's kernels use labelled partitions of cooperative groups, which begin with Volta.
OLDEST_CAPABILITY = (7, 0)


def choose_backend(name: str = "auto") -> str:
    """Settle on a backend.

    Args:
        name: "auto" takes CUDA where it can run and the CPU otherwise; "cpu" and "cuda" insist.

    Returns:
        "cpu" or "cuda".

    Raises:
        BackendError: "cuda" was asked for and cannot run; the message says why. Or the name is unknown.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BackendError("unknown backend", got=name, expected="auto, cpu or cuda")
    if name == "cpu":
        return "cpu"
    reason = why_no_cuda()
    if reason is None:
        return "cuda"
    if name == "cuda":
        raise BackendError(
            "the CUDA backend cannot run on this machine",
            got=reason,
            hint="use backend cpu, or auto to choose by itself",
        )
    logger.info("Rasterizing on the CPU: %s", reason)
    return "cpu"


@functools.cache
def why_no_cuda() -> str | None:
    """Why gsplat's CUDA kernels cannot run here, in one sentence; None where they can."""
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU or no driver for it"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST_CAPABILITY:
        found, needed = (".".join(map(str, pair)) for pair in (capability, OLDEST_CAPABILITY))
        return (
            f"{torch.cuda.get_device_name()} has compute capability {found}, gsplat needs {needed} or newer"
        )
    try:
        # Compiles the kernels on first use where the wheel has none.
        from gsplat.cuda._backend import _C
    except Exception as error:  # whatever the compiler or the linker raises is a reason, not a crash
        return f"gsplat's CUDA kernels cannot be loaded: {type(error).__name__}: {error}"
    if _C is None:
        return "gsplat's CUDA kernels are not built and no CUDA toolkit (nvcc) was found to build them"
    return None
