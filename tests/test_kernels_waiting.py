"""Offers are taken, taken back, waited for and slept for; who is asleep is woken once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from spaceport_lab.kernels import waiting

LONG = 1 << 40
"""Looks that no test waits for."""


@pytest.fixture
def board() -> np.ndarray:
    return np.zeros(3 * waiting.LINE, np.int64)


def counter(claims: int) -> np.ndarray:
    return np.full(1, claims, np.int64)


def begun(function: Callable[[], int]) -> tuple[threading.Thread, list[int]]:
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    return thread, results


def test_an_offer_is_taken_once_enough_has_been_claimed(board: np.ndarray) -> None:
    claims, second = counter(0), 1
    assert waiting.offer(board, 2, np.zeros(2, np.int64)) == 0
    thread, results = begun(lambda: waiting.next_work(board, second, claims, LONG, False))
    for claimed in (0, 1):
        claims[0] = claimed
        time.sleep(0.05)
        assert thread.is_alive(), "there are threads before it"
    claims[0] = 2
    thread.join(20)
    assert results == [waiting.WORK]
    assert board[:: waiting.LINE].tolist() == [waiting.OFFERED, waiting.TAKEN, waiting.IDLE]


def test_a_worker_without_patience_takes_what_nobody_has_begun(board: np.ndarray) -> None:
    waiting.offer(board, 1, np.zeros(1, np.int64))
    assert waiting.next_work(board, 0, counter(0), 100, False) == waiting.WORK


def test_who_waits_in_vain_sleeps_and_is_to_be_woken_once(board: np.ndarray) -> None:
    assert waiting.next_work(board, 1, counter(9), 10, False) == waiting.SLEEP
    sleepers = np.zeros(3, np.int64)
    assert waiting.offer(board, 3, sleepers) == 1
    assert sleepers[0] == 1
    assert board[:: waiting.LINE].tolist() == [waiting.OFFERED] * 3
    assert waiting.next_work(board, 1, counter(9), 10, False) == waiting.WORK


def test_what_nobody_takes_is_taken_back(board: np.ndarray) -> None:
    waiting.offer(board, 3, np.zeros(3, np.int64))
    assert waiting.all_done(board, 3, 10) == -1
    assert not board.any()


def test_a_caller_waits_for_who_works_awake_and_then_asleep(board: np.ndarray) -> None:
    waiting.offer(board, 2, np.zeros(2, np.int64))
    assert waiting.next_work(board, 1, counter(9), 10, False) == waiting.WORK
    thread, results = begun(lambda: waiting.all_done(board, 2, LONG))
    time.sleep(0.05)
    assert thread.is_alive()
    assert waiting.next_work(board, 1, counter(9), 10, True) == waiting.SLEEP, "nobody slept for it"
    thread.join(20)
    assert results == [-1]

    waiting.offer(board, 2, np.zeros(2, np.int64))
    assert waiting.next_work(board, 1, counter(9), 10, False) == waiting.WORK
    assert waiting.all_done(board, 2, 10) == 1
    assert waiting.all_done(board, 2, 10) == 1, "it still works"
    assert waiting.next_work(board, 1, counter(9), 10, True) == waiting.WAKE_CALLER
    assert waiting.all_done(board, 2, 10) == -1


def test_a_worker_that_is_still_busy_is_offered_nothing(board: np.ndarray) -> None:
    waiting.offer(board, 1, np.zeros(1, np.int64))
    assert waiting.next_work(board, 0, counter(9), 10, False) == waiting.WORK
    assert waiting.offer(board, 2, np.zeros(2, np.int64)) == 0
    assert board[:: waiting.LINE].tolist() == [waiting.TAKEN, waiting.OFFERED, waiting.IDLE]
