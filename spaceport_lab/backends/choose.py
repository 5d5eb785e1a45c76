"""Which rasterizer can run here, and why not the other one."""

from __future__ import annotations

import enum
import functools
import logging
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from spaceport_lab.errors import BackendError

logger = logging.getLogger(__name__)

# gsplat's kernels use labelled partitions of cooperative groups, which begin with Volta.
OLDEST_CAPABILITY = (7, 0)

PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"

QUERY_SECONDS = 20
"""How long nvidia-smi may take; with a driver that hangs it takes for ever."""


class Obstacle(enum.Enum):
    """What keeps CUDA from running here; the value says what to do about it."""

    TORCH_WITHOUT_CUDA = "fine without a GPU; with one, install torch's CUDA build (see environment.yml)"
    NO_GPU = "fine without a GPU; everything runs on the CPU, only slower"
    GPU_HIDDEN = "unset CUDA_VISIBLE_DEVICES, or name a GPU that nvidia-smi -L lists"
    NO_DRIVER = "install NVIDIA's driver; in a container, start it with access to the GPU (--gpus all)"
    DRIVER_TOO_OLD = "update NVIDIA's driver, or install a torch that is built for an older CUDA"
    DRIVER_FAILS = "look at what nvidia-smi says; restarting the machine often helps after a driver's update"
    GPU_TOO_OLD = "use --set train.backend=cpu"
    KERNELS_NOT_BUILT = (
        "install the CUDA toolkit (nvcc) of torch's version and ninja, or a gsplat wheel with kernels"
    )
    KERNELS_NOT_LOADED = "install gsplat again, so that its kernels are built for this torch"


@dataclass(frozen=True)
class NoCuda:
    """Why CUDA cannot run: what is in the way, and one sentence about it (also its `str`)."""

    obstacle: Obstacle
    sentence: str

    def __str__(self) -> str:
        return self.sentence

    @property
    def advice(self) -> str:
        """What to try first."""
        return self.obstacle.value


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
            hint=f"{reason.advice}; or use backend cpu, or auto to choose by itself",
        )
    logger.info("Rasterizing on the CPU: %s", reason)
    return "cpu"


@functools.cache
def why_no_cuda() -> NoCuda | None:
    """Why gsplat's CUDA kernels cannot run here; None where they can."""
    if torch.version.cuda is None:
        beside = ", but there is an NVIDIA GPU" if has_nvidia_gpu() else ""
        return NoCuda(Obstacle.TORCH_WITHOUT_CUDA, f"this PyTorch was built without CUDA{beside}")
    if not torch.cuda.is_available():
        return _why_no_device()
    return _why_too_old() or _why_no_kernels()


def has_nvidia_gpu() -> bool:
    """Whether a GPU of NVIDIA is in the machine, by its driver or, without one, by the PCI bus (Linux)."""
    if _driver() is not None:
        return True
    for device in PCI_DEVICES.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == NVIDIA_VENDOR and kind.startswith(DISPLAY_CLASS):
            return True
    return False


def _why_no_device() -> NoCuda:
    """torch has CUDA and finds no device: what torch, nvidia-smi and the PCI bus say together."""
    try:
        torch.cuda.init()
        complaint = ""
    except Exception as error:  # torch raises RuntimeError, AssertionError and errors of its own
        complaint = _first_line(error)
    driver, built_for = _driver(), torch.version.cuda
    # Within one major version an older driver serves a newer CUDA.
    if "too old" in complaint or (driver and driver.major < int(built_for.split(".")[0])):
        code = re.search(r"found version (\d+)", complaint)  # such as 11040 for CUDA 11.4
        cuda = f"{int(code[1]) // 1000}.{int(code[1]) % 1000 // 10}" if code else driver and driver.cuda
        name = f"the NVIDIA driver {driver.version}" if driver else "the NVIDIA driver"
        knows = f"knows CUDA up to {cuda}" if cuda else "is older"
        return NoCuda(
            Obstacle.DRIVER_TOO_OLD,
            f"{name} is too old: it {knows}, this PyTorch is built for CUDA {built_for}",
        )
    sees_none, present = not complaint or "No CUDA GPUs" in complaint, has_nvidia_gpu()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if sees_none and present and visible is not None:
        return NoCuda(Obstacle.GPU_HIDDEN, f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU")
    if driver is None and (sees_none or "no NVIDIA driver" in complaint):
        if present:
            return NoCuda(Obstacle.NO_DRIVER, "there is an NVIDIA GPU, but no driver for it can be reached")
        return NoCuda(Obstacle.NO_GPU, "there is no NVIDIA GPU in this machine")
    return NoCuda(Obstacle.DRIVER_FAILS, f"CUDA does not start: {complaint or 'torch finds no device'}")


def _why_too_old() -> NoCuda | None:
    capability, name = torch.cuda.get_device_capability(), torch.cuda.get_device_name()
    if capability < OLDEST_CAPABILITY:
        found, needed = (".".join(map(str, pair)) for pair in (capability, OLDEST_CAPABILITY))
        return NoCuda(
            Obstacle.GPU_TOO_OLD, f"{name} has compute capability {found}, gsplat needs {needed} or newer"
        )
    return None


def _why_no_kernels() -> NoCuda | None:
    try:
        # Compiles the kernels on first use where the wheel has none.
        from gsplat.cuda._backend import _C
    except (ImportError, OSError) as error:
        return NoCuda(
            Obstacle.KERNELS_NOT_LOADED,
            f"gsplat's CUDA kernels cannot be loaded: {type(error).__name__}: {_first_line(error)}",
        )
    except Exception as error:  # whatever the compiler raises is a reason, not a crash
        return NoCuda(
            Obstacle.KERNELS_NOT_BUILT,
            f"gsplat's CUDA kernels cannot be built: {type(error).__name__}: {_first_line(error)}",
        )
    if _C is None:
        return NoCuda(
            Obstacle.KERNELS_NOT_BUILT,
            "gsplat's CUDA kernels are not built and no CUDA toolkit (nvcc) was found to build them",
        )
    return None


@dataclass(frozen=True)
class _Driver:
    """NVIDIA's driver: its own version, and the newest CUDA it knows, such as "12.4"."""

    version: str
    cuda: str

    @property
    def major(self) -> int:
        """Of the newest CUDA."""
        return int(self.cuda.split(".")[0])


def _driver() -> _Driver | None:
    """What nvidia-smi says of the driver; None where there is none or it lists no GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        told = subprocess.run([program], capture_output=True, text=True, timeout=QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"Driver Version:\s*([\d.]+)", told.stdout)
    cuda = re.search(r"CUDA Version:\s*(\d+\.\d+)", told.stdout)
    return _Driver(version[1], cuda[1]) if version and cuda else None


def _first_line(error: Exception) -> str:
    """An error's first line, at most 300 characters: compilers add pages."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
