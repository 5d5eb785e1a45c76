"""The same bits from any number of threads; many callers at once; workers that wait, sleep and forgive."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from test_backends import make_scene

from spaceport_lab.backends import l1_ssim_loss, rasterize
from spaceport_lab.kernels import threads, waiting

WIDTH, HEIGHT = 210, 150
TRAINED = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


@pytest.fixture(autouse=True)
def _own_thread_count() -> Iterator[None]:
    yield
    threads.set_thread_count(None)


def one_step(scene: dict) -> list[np.ndarray]:
    """Everything a training step computes."""
    inputs = {name: t.clone().requires_grad_(name in TRAINED) for name, t in scene.items()}
    renders, alphas, info = rasterize(
        **inputs,
        width=WIDTH,
        height=HEIGHT,
        sh_degree=3,
        render_mode="RGB+ED",
        rasterize_mode="antialiased",
        absgrad=True,
    )
    target = torch.linspace(0, 1, renders.numel()).reshape(renders.shape)
    loss = l1_ssim_loss(renders, target) + alphas.mean()
    loss.backward()
    tensors = [
        loss,
        renders,
        alphas,
        info["radii"],
        info["means2d"],
        info["means2d"].grad,
        info["means2d"].absgrad,
    ]
    tensors += [inputs[name].grad for name in TRAINED]
    return [t.detach().numpy().copy() for t in tensors]


def test_the_same_bits_for_any_number_of_threads() -> None:
    scene = make_scene(5000, WIDTH, HEIGHT, cameras=2, size=-3.0)
    threads.set_thread_count(1)
    first = one_step(scene)
    for count in (1, 2, 3, 7):
        threads.set_thread_count(count)
        for ours, expected in zip(one_step(scene), first, strict=True):
            assert np.array_equal(ours, expected)


def test_many_callers_at_once() -> None:
    scenes = [make_scene(1500, WIDTH, HEIGHT, seed=seed, size=-3.0) for seed in range(4)]
    expected = [one_step(scene) for scene in scenes]
    wrong: list[str] = []

    def caller(number: int) -> None:
        for _ in range(5):
            results = one_step(scenes[number])
            if not all(np.array_equal(a, b) for a, b in zip(results, expected[number], strict=True)):
                wrong.append(f"caller {number}")

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not wrong


def words(count: int) -> list[int]:
    """What the first workers do."""
    return threads._crew._board[: count * waiting.LINE : waiting.LINE].tolist()


def test_workers_sleep_when_there_is_nothing_to_do_and_come_again() -> None:
    for _ in range(3):
        called: set[str] = set()
        together = threading.Barrier(3, timeout=20)

        def work(called: set[str] = called, together: threading.Barrier = together) -> None:
            called.add(threading.current_thread().name)
            together.wait()

        threads.run_on_threads(work, 3)
        assert len(called) == 3
        deadline = time.monotonic() + 20
        while words(2) != [waiting.ASLEEP] * 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert words(2) == [waiting.ASLEEP] * 2


def test_a_caller_works_alone_while_another_has_the_workers() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def first() -> None:
        inside.set()
        assert go_on.wait(20)

    other = threading.Thread(target=threads.run_on_threads, args=(first, 2))
    other.start()
    assert inside.wait(20)
    names: list[str] = []
    threads.run_on_threads(lambda: names.append(threading.current_thread().name), 2)
    go_on.set()
    other.join()
    assert names == [threading.current_thread().name]


def test_more_kernels_in_turn_than_ever_before() -> None:
    def kernel(counter: np.ndarray, number: int) -> int:
        counter[0] += 1
        return number

    results = threads.on_all_in_turn([(kernel, number) for number in range(40)], 1)
    assert results == list(range(40))
    threads.set_thread_count(2)
    assert set(threads.on_all_in_turn([(kernel, number) for number in range(40)], 2)) == set(range(40))


def test_a_caller_that_is_interrupted_leaves_workers_that_work() -> None:
    started, go_on = threading.Event(), threading.Event()

    def work() -> None:
        if threading.current_thread() is threading.main_thread():
            assert started.wait(20)
            # Comes while the caller sleeps for its worker.
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            threading.Timer(0.6, go_on.set).start()
        else:
            started.set()
            assert go_on.wait(20)

    with pytest.raises(KeyboardInterrupt):
        threads.run_on_threads(work, 2)
    assert words(1) == [waiting.AWAITED]
    names: list[str] = []
    threads.run_on_threads(lambda: names.append(threading.current_thread().name), 2)
    assert names[0] == threading.current_thread().name, "its worker is still at the work before"
    together = threading.Barrier(2, timeout=20)
    threads.run_on_threads(together.wait, 2)


def test_a_forked_child_starts_a_pool_of_its_own() -> None:
    """A child inherits the pool but none of its threads; work must not wait for them."""
    names: list[str] = []

    def work() -> None:
        names.append(threading.current_thread().name)
        time.sleep(0.2)

    threads.run_on_threads(work, 2)
    assert len(names) == 2
    child = os.fork()
    if child == 0:
        names.clear()
        threads.run_on_threads(work, 2)
        os._exit(0 if len(names) == 2 else 1)
    deadline = time.monotonic() + 20
    status = (0, 0)
    while status[0] == 0 and time.monotonic() < deadline:
        status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.05)
    if status[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status == (child, 0)


def test_errors_of_any_thread_are_raised() -> None:
    calls = []

    def work() -> None:
        calls.append(threading.get_ident())
        time.sleep(0.05)
        if len(calls) > 1 and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("from a worker")

    with pytest.raises(RuntimeError, match="from a worker"):
        threads.run_on_threads(work, 2)
    assert len(set(calls)) == 2


def test_thread_count_follows_environment_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "5")
    assert threads.thread_count() == 5
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    assert 1 <= threads.thread_count() <= os.cpu_count()
    monkeypatch.setattr(threads, "_cgroup_cores", lambda: 1)
    assert threads.thread_count() == 1
    threads.set_thread_count(3)
    assert threads.thread_count() == 3
    with pytest.raises(ValueError, match="at least one"):
        threads.set_thread_count(0)


def test_quota_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, cores in (("150000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 1 << 16)):
        monkeypatch.setattr(threads.Path, "read_text", lambda self, text=text: text)
        assert threads._cgroup_cores.__wrapped__() == cores
