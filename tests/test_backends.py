"""`rasterize` against a slow float64 reference: every output, every option, every gradient."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import rasterize_reference as reference
import torch

from spaceport_lab.backends import choose, choose_backend, l1_ssim_loss, rasterize
from spaceport_lab.backends.loss import torch_l1_ssim_loss
from spaceport_lab.errors import BackendError
from spaceport_lab.kernels import records

VALUES, GRADIENTS = 1e-5, 1e-3
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


@pytest.fixture(autouse=True, scope="module")
def _one_torch_thread() -> Iterator[None]:
    """The reference is made of thousands of tiny tensors: more threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_scene(
    n: int,
    width: int,
    height: int,
    seed: int = 0,
    cameras: int = 1,
    coefficients: int = 16,
    size: float = -2.3,
):
    """Gaussians in front of cameras that look at them from slightly different places."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    for c in range(cameras):
        angle = 0.3 - 0.25 * c
        viewmats[c, 0, 0] = viewmats[c, 2, 2] = math.cos(angle)
        viewmats[c, 0, 2], viewmats[c, 2, 0] = math.sin(angle), -math.sin(angle)
        viewmats[c, :3, 3] = torch.tensor([0.1, -0.05 * c, 3.0 + 0.2 * c])
    focal = 1.1 * max(width, height)
    K = torch.tensor([[focal, 0, width / 2 + 1.3], [0, 1.03 * focal, height / 2 - 0.7], [0, 0, 1]])
    return {
        "means": normal(n, 3) * torch.tensor([1.2, 0.9, 0.8]),
        "quats": normal(n, 4),
        "scales": torch.exp(normal(n, 3) * 0.6 + size),
        "opacities": torch.sigmoid(normal(n) * 2 + 1),
        "colors": torch.cat([normal(n, 1, 3), 0.3 * normal(n, coefficients - 1, 3)], 1)
        if coefficients
        else torch.rand(n, 3, generator=g),
        "viewmats": viewmats,
        "Ks": K.repeat(cameras, 1, 1),
        "backgrounds": torch.rand(cameras, 3, generator=g),
    }


def compare(
    scene: dict,
    width: int,
    height: int,
    *,
    render_mode: str = "RGB",
    absgrad: bool = False,
    seed: int = 1,
    **options,
) -> None:
    """Values within 1e-5 and gradients within 1e-3 of the reference's, for random gradients of all."""
    ours = {name: t.clone().requires_grad_(name != "Ks") for name, t in scene.items()}
    exact = {name: t.double().requires_grad_(name != "Ks") for name, t in scene.items()}
    renders, alphas, info = rasterize(
        **ours, width=width, height=height, render_mode=render_mode, absgrad=absgrad, **options
    )
    g = torch.Generator().manual_seed(seed)
    g_render, g_alpha = (torch.randn(t.shape, generator=g) for t in (renders, alphas))
    expected = _references(exact, width, height, render_mode, options)
    sure_pixels = torch.stack([~want.uncertain for want, _ in expected])
    assert sure_pixels.double().mean() > 0.98, "the scene is no fair test: too many pixels hang by a hair"
    g_render, g_alpha = (g * sure_pixels[..., None] for g in (g_render, g_alpha))
    total = 0
    for c, (want, image) in enumerate(expected):
        sure = sure_pixels[c]
        assert (renders[c] - image)[sure].abs().max() < VALUES * max(1, image.abs().max().item())
        assert (alphas[c, ..., 0] - want.alpha)[sure].abs().max() < VALUES
        _compare_info(info, c, want)
        total = total + (image * g_render[c]).sum() + (want.alpha * g_alpha[c, ..., 0]).sum()
    total.backward()
    info["means2d"].retain_grad()
    ((renders * g_render).sum() + (alphas * g_alpha).sum()).backward()
    for name in NAMES:
        if name in ours and exact[name].grad is not None:
            assert_close(name, ours[name].grad, exact[name].grad)
    pixelwise = torch.stack([want.per_pixel.grad for want, _ in expected])
    assert_close("means2d", info["means2d"].grad, pixelwise.sum((-1, -2)))
    if absgrad:
        assert_close("absgrad", info["means2d"].absgrad, pixelwise.abs().sum((-1, -2)))


def _references(exact: dict, width: int, height: int, render_mode: str, options: dict) -> list:
    results = []
    options = dict(options)
    antialiased = options.pop("rasterize_mode", "classic") == "antialiased"
    renamed = {"near_plane": "near", "far_plane": "far"}
    options = {renamed.get(key, key): value for key, value in options.items()}
    for c in range(len(exact["viewmats"])):
        per_camera = exact["colors"].dim() == (4 if "sh_degree" in options else 3)
        colors = exact["colors"][c] if per_camera else exact["colors"]
        background = exact["backgrounds"][c] if "backgrounds" in exact and "RGB" in render_mode else None
        want = reference.render(
            exact["means"], exact["quats"], exact["scales"], exact["opacities"],
            colors if "RGB" in render_mode else None, exact["viewmats"][c], exact["Ks"][c], width, height,
            background=background, with_depth="D" in render_mode[-2:], antialiased=antialiased, **options,
        )  # fmt: skip
        image = want.image
        if render_mode.endswith("ED"):
            depth = image[..., -1:] / want.alpha[..., None].clamp(min=1e-10)
            image = torch.cat([image[..., :-1], depth], -1)
        results.append((want, image))
    return results


def _compare_info(info: dict, c: int, want: reference.Reference) -> None:
    seen = (want.radii > 0).all(-1)
    assert torch.equal(info["radii"][c].int(), want.radii)
    assert info["radii"].dtype == torch.int32
    assert (info["means2d"][c] - want.means2d)[seen].abs().max() < 1e-3
    assert (info["depths"][c] - want.depths)[seen].abs().max() < 1e-5


def assert_close(name: str, got: torch.Tensor | None, want: torch.Tensor) -> None:
    """Relative L2 distance of gradients."""
    assert got is not None, f"{name} has no gradient"
    assert got.shape == want.shape, name
    scale = want.norm().item()
    distance = (got - want).norm().item() / max(scale, 1e-12)
    assert distance < GRADIENTS or (got - want).norm() < 1e-7, f"{name}: relative L2 {distance:.2e}"


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_harmonics_of_every_degree(degree: int, mode: str) -> None:
    compare(make_scene(60, 33, 28, seed=degree), 33, 28, sh_degree=degree, rasterize_mode=mode, absgrad=True)


@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_every_render_mode(render_mode: str, mode: str) -> None:
    scene = make_scene(50, 30, 26, seed=7)
    compare(scene, 30, 26, sh_degree=3, render_mode=render_mode, rasterize_mode=mode, absgrad=True)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 37), (50, 1), (16, 16), (17, 33), (31, 64)])
def test_images_of_any_size(width: int, height: int) -> None:
    compare(make_scene(60, max(width, 20), max(height, 20), seed=3), width, height, sh_degree=1)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
def test_given_colours(channels: int, render_mode: str) -> None:
    scene = make_scene(60, 30, 26, seed=channels)
    g = torch.Generator().manual_seed(channels)
    scene["colors"] = torch.randn(60, channels, generator=g)
    scene["backgrounds"] = torch.rand(1, channels, generator=g)
    compare(scene, 30, 26, render_mode=render_mode)


def test_many_channels_are_rendered_in_groups() -> None:
    scene = make_scene(50, 30, 26)
    scene["colors"], scene["backgrounds"] = torch.randn(50, 19), torch.rand(1, 19)
    compare(scene, 30, 26, render_mode="RGB+D")


def test_several_cameras_share_the_gaussians() -> None:
    compare(make_scene(50, 30, 26, cameras=3), 30, 26, sh_degree=2, absgrad=True)


def test_colours_per_camera() -> None:
    scene = make_scene(50, 30, 26, cameras=2)
    scene["colors"] = torch.stack([scene["colors"], scene["colors"].flip(0)])
    compare(scene, 30, 26, sh_degree=3)
    scene["colors"] = torch.rand(2, 50, 3)
    compare(scene, 30, 26)


def test_no_background() -> None:
    scene = make_scene(60, 30, 26)
    del scene["backgrounds"]
    compare(scene, 30, 26, sh_degree=0)


def test_near_far_clip_and_blur() -> None:
    scene = make_scene(80, 40, 34, seed=5)
    compare(scene, 40, 34, sh_degree=1, near_plane=2.6)
    compare(scene, 40, 34, sh_degree=1, far_plane=3.1)
    compare(scene, 40, 34, sh_degree=1, radius_clip=4.0)
    compare(scene, 40, 34, sh_degree=1, eps2d=0.05)
    compare(scene, 40, 34, sh_degree=1, eps2d=2.0, rasterize_mode="antialiased")


def test_opaque_walls_stop_the_light() -> None:
    scene = make_scene(120, 30, 26, seed=9, size=-1.0)
    scene["opacities"][:] = 0.98
    compare(scene, 30, 26, sh_degree=1, absgrad=True)


def test_centres_far_outside_the_image_clamp_the_jacobian() -> None:
    scene = make_scene(80, 30, 26, seed=11, size=-0.5)
    scene["means"][:, 0] += torch.where(scene["means"][:, 0] > 0, 2.0, -2.0)
    scene["means"][:, 1] += torch.where(scene["means"][:, 1] > 0, 1.5, -1.5)
    compare(scene, 30, 26, sh_degree=2)


def test_needles_and_discs() -> None:
    scene = make_scene(80, 40, 34, seed=13)
    scene["scales"][:40] = torch.tensor([0.8, 0.003, 0.003])
    scene["scales"][40:] = torch.tensor([0.4, 0.4, 0.002])
    compare(scene, 40, 34, sh_degree=1)


def test_harmonics_in_two_tensors_equal_one() -> None:
    scene = make_scene(60, 30, 26)
    together = scene["colors"].clone().requires_grad_()
    parts = tuple(t.clone().requires_grad_() for t in (scene["colors"][:, :1], scene["colors"][:, 1:]))
    results = []
    for colors in (together, parts):
        scene["colors"] = colors
        renders, _, _ = rasterize(**scene, width=30, height=26, sh_degree=2)
        (renders * torch.linspace(0, 1, renders.numel()).reshape(renders.shape)).sum().backward()
        results.append(renders.detach())
    assert torch.equal(*results)
    assert torch.equal(together.grad[:, :1], parts[0].grad)
    assert torch.equal(together.grad[:, 1:], parts[1].grad)


def test_no_gaussians_give_the_background() -> None:
    scene = make_scene(5, 30, 26, cameras=2)
    empty = {
        name: (t if name in ("viewmats", "Ks", "backgrounds") else t[:0].requires_grad_())
        for name, t in scene.items()
    }
    renders, alphas, info = rasterize(
        **empty, width=30, height=26, sh_degree=3, render_mode="RGB+D", absgrad=True
    )
    assert torch.equal(renders[1, 3, 4], torch.cat([scene["backgrounds"][1], torch.zeros(1)]))
    assert not alphas.any()
    assert info["radii"].shape == (2, 0, 2)
    renders.sum().backward()
    assert empty["means"].grad.shape == (0, 3)
    assert info["means2d"].absgrad.shape == (2, 0, 2)


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_a_crowd_is_rendered_as_few_are(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a crowd those that cannot be in view are told before they are projected, in larger chunks."""
    n, names = 3000, ("means", "quats", "scales", "opacities", "colors", "viewmats")
    scene = make_scene(n, 60, 40)
    # All around the camera, a few of them large, and neighbours side by side as training lays them.
    scene["means"] = 6 * torch.randn(n, 3, generator=torch.Generator().manual_seed(2))
    scene["means"] = scene["means"][scene["means"][:, 2].argsort()]
    scene["scales"][::50] *= 30
    results = []
    for crowd in (n, n + 1):
        monkeypatch.setattr(records, "CROWD", crowd)
        inputs = {name: tensor.clone().requires_grad_(name in names) for name, tensor in scene.items()}
        renders, alphas, info = rasterize(**inputs, width=60, height=40, sh_degree=3, rasterize_mode=mode)
        gradients = torch.autograd.grad(renders.square().sum(), [inputs[name] for name in names])
        results.append([renders.detach(), alphas.detach(), info["radii"], info["depths"], *gradients])
    assert 0 < int((results[0][2] > 0).all(dim=-1).sum()) < n / 4
    for crowd, few in zip(results[0][:-1], results[1][:-1], strict=True):
        assert torch.equal(crowd, few)
    torch.testing.assert_close(results[0][-1], results[1][-1], rtol=1e-5, atol=1e-4)


def test_nothing_is_recorded_without_gradients() -> None:
    scene = make_scene(20, 30, 26)
    scene["means"].requires_grad_()
    with torch.no_grad():
        renders, _, info = rasterize(**scene, width=30, height=26, sh_degree=0)
    assert not renders.requires_grad
    assert not info["means2d"].requires_grad


def test_finite_differences() -> None:
    scene = make_scene(4, 12, 10, seed=2, size=-1.0)
    scene["opacities"].clamp_(0.2, 0.7)

    def loss(name: str, values: torch.Tensor) -> torch.Tensor:
        renders, alphas, _ = rasterize(
            **{**scene, name: values}, width=12, height=10, sh_degree=1, render_mode="RGB+D"
        )
        weights = torch.linspace(-1, 1, renders.numel()).reshape(renders.shape)
        return (renders.double() * weights).sum() + 0.3 * alphas.double().sum()

    for name in ("means", "quats", "scales", "opacities", "colors", "viewmats"):
        values = scene[name].clone().requires_grad_()
        loss(name, values).backward()
        direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
        if name == "viewmats":
            direction[:, 3] = 0
        step = 2e-3
        with torch.no_grad():
            slope = (loss(name, values + step * direction) - loss(name, values - step * direction)) / (
                2 * step
            )
        along = (values.grad.double() * direction).sum()
        # Crossing alpha = 1/255 makes steps of its own, so this is a coarse check on purpose.
        assert abs(slope - along) < 0.05 * max(1.0, abs(along)), name


class TestStrategies:
    """gsplat's densification strategies read what they need from `info`."""

    @staticmethod
    def trained(n: int = 60):
        scene = make_scene(n, 32, 28)
        params = torch.nn.ParameterDict(
            {
                "means": scene["means"], "quats": scene["quats"], "scales": scene["scales"].log(),
                "opacities": torch.logit(scene["opacities"]), "sh0": scene["colors"][:, :1],
                "shN": scene["colors"][:, 1:],
            }
        )  # fmt: skip
        optimizers = {name: torch.optim.Adam([{"params": p, "lr": 1e-3}]) for name, p in params.items()}
        return scene, params, optimizers

    @pytest.mark.parametrize("absgrad", [False, True])
    def test_default(self, absgrad: bool) -> None:
        from gsplat import DefaultStrategy

        scene, params, optimizers = self.trained()
        strategy = DefaultStrategy(
            absgrad=absgrad,
            refine_start_iter=0,
            refine_every=2,
            grow_grad2d=1e-7,
            pause_refine_after_reset=0,
            refine_scale2d_stop_iter=10,
        )
        strategy.check_sanity(params, optimizers)
        state = strategy.initialize_state(scene_scale=1.0)
        before = len(params["means"])
        for step in range(1, 5):
            renders, _, info = rasterize(
                params["means"], params["quats"], params["scales"].exp(), torch.sigmoid(params["opacities"]),
                (params["sh0"], params["shN"]), scene["viewmats"], scene["Ks"], 32, 28, sh_degree=2,
                absgrad=absgrad,
            )  # fmt: skip
            strategy.step_pre_backward(params, optimizers, state, step, info)
            renders.square().mean().backward()
            strategy.step_post_backward(params, optimizers, state, step, info, packed=False)
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
        assert len(params["means"]) > before


def test_mean2d_gradient_is_fresh_in_every_frame() -> None:
    scene = make_scene(30, 30, 26)
    scene["means"].requires_grad_()
    gradients = []
    for _ in range(2):
        renders, _, info = rasterize(**scene, width=30, height=26, sh_degree=0, absgrad=True)
        renders.sum().backward()
        gradients.append((info["means2d"].grad.clone(), info["means2d"].absgrad.clone()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])
    assert (gradients[0][1] >= gradients[0][0].abs() - 1e-6).all()


class TestRefusals:
    @pytest.mark.parametrize(
        "name", ["means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds"]
    )
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_not_a_number(self, name: str, bad: float) -> None:
        scene = make_scene(20, 30, 26, cameras=3)
        rows = scene[name].reshape(scene[name].shape[0], -1)
        rows[1, -1] = bad
        rows[2, 0] = bad
        with pytest.raises(BackendError, match=rf"(?s){name} holds NaN or Inf.*2 bad rows of {len(rows)}"):
            rasterize(**scene, width=30, height=26, sh_degree=3)

    def test_huge_but_finite_numbers_are_not_called_nan(self) -> None:
        scene = make_scene(20, 30, 26)
        scene["means"][:10] = 3e38
        rasterize(**scene, width=30, height=26, sh_degree=3)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"quats": torch.zeros(7, 4)}, "quats has the wrong shape"),
            ({"opacities": torch.zeros(20, 1)}, "opacities has the wrong shape"),
            ({"viewmats": torch.zeros(0, 4, 4), "Ks": torch.zeros(0, 3, 3)}, "no camera"),
            ({"sh_degree": 4}, "sh_degree is out of range"),
            ({"colors": torch.zeros(20, 9, 3)}, "too few SH coefficients"),
            ({"render_mode": "rgb"}, "unknown render_mode"),
            ({"rasterize_mode": "soft"}, "unknown rasterize_mode"),
            ({"near_plane": 2.0, "far_plane": 1.0}, "not in order"),
            ({"width": 0}, "size is out of range"),
            ({"height": 70_000}, "size is out of range"),
            ({"backend": "metal"}, "unknown backend"),
            ({"backgrounds": torch.zeros(1, 4)}, "backgrounds has the wrong shape"),
            ({"Ks": torch.eye(3)[None] * -1}, "focal length"),
            ({"viewmats": torch.zeros(1, 4, 4)}, "cannot be inverted"),
        ],
    )
    def test_wrong_arguments(self, change: dict, message: str) -> None:
        arguments = {**make_scene(20, 30, 26), "width": 30, "height": 26, "sh_degree": 3, **change}
        with pytest.raises(BackendError, match=message):
            rasterize(**arguments)


class TestChooseBackend:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        choose.why_no_cuda.cache_clear()
        yield
        choose.why_no_cuda.cache_clear()

    def test_the_cpu_is_always_there(self) -> None:
        assert choose_backend("cpu") == "cpu"

    def test_unknown(self) -> None:
        with pytest.raises(BackendError, match=r"(?s)unknown backend.*auto, cpu or cuda"):
            choose_backend("vulkan")

    @staticmethod
    def refused(obstacle: choose.Obstacle, reason: str) -> None:
        assert choose_backend("auto") == "cpu"
        assert choose.why_no_cuda().obstacle is obstacle
        pattern = rf"(?s)cannot run on this machine.*got:.*{reason}.*try:.*backend cpu"
        with pytest.raises(BackendError, match=pattern) as raised:
            choose_backend("cuda")
        assert obstacle.value in str(raised.value)

    def test_torch_without_cuda(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.pretend_machine(monkeypatch, tmp_path, gpu=False)
        monkeypatch.setattr(torch.version, "cuda", None)
        self.refused(choose.Obstacle.TORCH_WITHOUT_CUDA, "built without CUDA\n")
        choose.why_no_cuda.cache_clear()
        self.pretend_machine(monkeypatch, tmp_path, gpu=True)
        monkeypatch.setattr(torch.version, "cuda", None)
        self.refused(choose.Obstacle.TORCH_WITHOUT_CUDA, "but there is an NVIDIA GPU")

    @pytest.mark.parametrize(
        ("gpu", "smi", "complaint", "obstacle", "reason"),
        [
            (False, None, "Found no NVIDIA driver on your system. Please", "NO_GPU", "no NVIDIA GPU in this"),
            (False, None, "", "NO_GPU", "no NVIDIA GPU in this"),
            (False, None, "No CUDA GPUs are available", "NO_GPU", "no NVIDIA GPU in this"),
            (True, None, "Found no NVIDIA driver on your system. Please", "NO_DRIVER", "no driver for it"),
            (True, ("470.57", "11.4"), "system is too old (found version 11040)", "DRIVER_TOO_OLD",
             "driver 470.57 is too old: it knows CUDA up to 11.4, this PyTorch is built for CUDA 12.8"),
            (True, None, "system is too old (found version 11080)", "DRIVER_TOO_OLD",
             "driver is too old: it knows CUDA up to 11.8, .* CUDA 12.8"),
            (True, ("470.57", "11.4"), "", "DRIVER_TOO_OLD", "470.57 .* 11.4, .* 12.8"),
            (True, ("550.54", "12.4"), "CUDA unknown error\n...", "DRIVER_FAILS", "unknown error\n"),
            (True, ("550.54", "12.4"), "", "DRIVER_FAILS", "finds no device"),
        ],
    )  # fmt: skip
    def test_no_device(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: bool, smi: tuple | None, complaint: str,
        obstacle: str, reason: str,
    ) -> None:  # fmt: skip
        self.pretend_machine(monkeypatch, tmp_path, gpu, smi, complaint)
        self.refused(choose.Obstacle[obstacle], reason)

    @pytest.mark.parametrize("smi", [None, ("550.54", "12.4")])
    def test_a_hidden_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, smi: tuple | None) -> None:
        self.pretend_machine(monkeypatch, tmp_path, True, smi, "No CUDA GPUs are available")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        self.refused(choose.Obstacle.GPU_HIDDEN, "CUDA_VISIBLE_DEVICES='-1' hides")

    def test_nvidia_smi_that_fails_is_no_driver(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.pretend_machine(monkeypatch, tmp_path, True, ("1", "1.0"), "Found no NVIDIA driver on")
        (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho has failed; exit 9\n")
        self.refused(choose.Obstacle.NO_DRIVER, "no driver for it can be reached")

    def test_gpu_too_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend_gpu(monkeypatch, (5, 2))
        self.refused(choose.Obstacle.GPU_TOO_OLD, "capability 5.2, gsplat needs 7.0")

    def test_kernels_cannot_be_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend_gpu(monkeypatch, (9, 0))
        monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", None)
        self.refused(choose.Obstacle.KERNELS_NOT_LOADED, "kernels cannot be loaded: ModuleNotFoundError")

    def test_kernels_are_not_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend_gpu(monkeypatch, (9, 0))
        monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=None))
        self.refused(choose.Obstacle.KERNELS_NOT_BUILT, "no CUDA toolkit")

    def test_kernels_cannot_be_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Failing(ModuleType):
            def __getattr__(self, name: str) -> None:
                raise RuntimeError("Error building extension 'gsplat_cuda': " + 400 * "x" + "\npages of log")

        self.pretend_gpu(monkeypatch, (9, 0))
        monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", Failing("gsplat.cuda._backend"))
        self.refused(choose.Obstacle.KERNELS_NOT_BUILT, "cannot be built: RuntimeError: Error building")
        assert len(str(choose.why_no_cuda())) < 400

    def test_all_is_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pretend_gpu(monkeypatch, (9, 0))
        monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=object()))
        assert choose.why_no_cuda() is None
        assert choose_backend("auto") == choose_backend("cuda") == "cuda"

    @staticmethod
    def pretend_machine(
        monkeypatch: pytest.MonkeyPatch, folder: Path, gpu: bool, smi: tuple[str, str] | None = None,
        complaint: str = "",
    ) -> None:  # fmt: skip
        """A torch for CUDA 12.8 that finds no device, with or without a GPU on the bus and nvidia-smi."""
        device = folder / "pci" / "0000:01:00.0"
        device.mkdir(parents=True, exist_ok=True)
        (device / "vendor").write_text("0x10de\n" if gpu else "0x1af4\n")
        (device / "class").write_text("0x030200\n")
        monkeypatch.setattr(choose, "PCI_DEVICES", folder / "pci")
        program = folder / "nvidia-smi"
        if smi:
            program.write_text(f"#!/bin/sh\necho '| Driver Version: {smi[0]}  CUDA Version: {smi[1]}  |'\n")
            program.chmod(0o755)
        monkeypatch.setattr(choose.shutil, "which", lambda name: str(program) if smi else None)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

        def init() -> None:
            if complaint:
                raise RuntimeError(complaint)

        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "init", init)

    @staticmethod
    def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")


class TestLoss:
    @pytest.mark.parametrize(
        "shape", [(1, 1, 3), (5, 7, 3), (33, 70, 3), (40, 13, 1), (2, 50, 61, 4), (120, 31, 3), (12, 700, 3)]
    )
    @pytest.mark.parametrize("ssim_lambda", [0.0, 0.2, 1.0])
    def test_fused_equals_the_plain_one(self, shape: tuple, ssim_lambda: float) -> None:
        g = torch.Generator().manual_seed(1)
        render, target = (torch.rand(shape, generator=g) for _ in range(2))
        target = 0.5 * (render + target)
        ours, exact = render.clone().requires_grad_(), render.double().requires_grad_()
        value = l1_ssim_loss(ours, target, ssim_lambda)
        images = exact.reshape(-1, *shape[-3:])
        wanted = target.double().reshape(images.shape)
        want = torch.stack(
            [reference.l1_ssim(x, y, ssim_lambda) for x, y in zip(images, wanted, strict=True)]
        ).mean()
        value.backward()
        want.backward()
        assert abs(value - want) < 1e-6
        assert_close("render", ours.grad, exact.grad)

    @pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (33, 70, 3), (40, 13, 1), (2, 50, 61, 4)])
    def test_bytes_are_photographs_too(self, shape: tuple) -> None:
        g = torch.Generator().manual_seed(3)
        photo = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
        render = torch.rand(shape, generator=g).requires_grad_()
        results = []
        for target in (photo, photo / 255):
            value = l1_ssim_loss(render, target)
            results.append((value.detach(), *torch.autograd.grad(value, render)))
        value = torch_l1_ssim_loss(render, photo / 255)
        assert abs(results[0][0] - value) < 1e-6
        assert_close("render", results[0][1], results[1][1])
        exact = l1_ssim_loss(render.double(), photo)
        assert exact.dtype == torch.float64
        assert abs(exact - value) < 1e-6

    def test_torch_version_equals_the_plain_one(self) -> None:
        g = torch.Generator().manual_seed(2)
        render, target = (torch.rand(23, 31, 3, generator=g).double() for _ in range(2))
        assert abs(torch_l1_ssim_loss(render, target, 0.2) - reference.l1_ssim(render, target, 0.2)) < 1e-6

    def test_scales_with_what_comes_from_above(self) -> None:
        render, target = torch.rand(20, 20, 3).requires_grad_(), torch.rand(20, 20, 3)
        (3 * l1_ssim_loss(render, target)).backward()
        three, render.grad = render.grad, None
        l1_ssim_loss(render, target).backward()
        assert torch.allclose(three, 3 * render.grad, rtol=1e-6)

    def test_equal_images_cost_nothing(self) -> None:
        image = torch.rand(30, 40, 3).requires_grad_()
        value = l1_ssim_loss(image, image.detach().clone())
        value.backward()
        assert abs(value.item()) < 1e-6
        assert image.grad.abs().max() < 1e-6

    def test_refuses_other_shapes(self) -> None:
        with pytest.raises(BackendError, match="one shape"):
            l1_ssim_loss(torch.zeros(4, 5, 3), torch.zeros(5, 4, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED", "D"])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_both_backends_agree(render_mode: str, mode: str) -> None:
    choose_backend("cuda")
    scene = make_scene(500, 64, 48, cameras=2)
    options = {
        "width": 64,
        "height": 48,
        "sh_degree": 3,
        "render_mode": render_mode,
        "rasterize_mode": mode,
        "absgrad": True,
    }
    results = {}
    for backend, device in (("cpu", "cpu"), ("cuda", "cuda")):
        inputs = {
            name: t.detach().clone().to(device).requires_grad_(name != "Ks") for name, t in scene.items()
        }
        renders, alphas, info = rasterize(**inputs, backend=backend, **options)
        info["means2d"].retain_grad()
        weights = torch.linspace(-1, 1, renders.numel(), device=device).reshape(renders.shape)
        ((renders * weights).sum() + alphas.sum()).backward()
        gradients = [inputs[name].grad.cpu() for name in NAMES if inputs[name].grad is not None]
        results[backend] = (
            renders.detach().cpu(),
            alphas.detach().cpu(),
            gradients,
            info["means2d"].absgrad.cpu(),
        )
    cpu, cuda = results["cpu"], results["cuda"]
    # Pixels that hang by a hair may differ, by one contribution of 1/255.
    assert ((cpu[0] - cuda[0]).abs() > 1e-4).double().mean() < 1e-3
    for ours, theirs in zip(cpu[2], cuda[2], strict=True):
        assert (ours - theirs).norm() < 1e-2 * theirs.norm()
