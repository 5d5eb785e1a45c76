"""How a caller and its workers wait for each other: awake for a moment, without the GIL, then asleep.

To wake a sleeping thread takes longer than many a kernel, and the GIL is a lock that threads sleep for. So a
worker looks at a word in memory until there is work, and goes for the GIL only once a share of the work has
been claimed: then the caller is inside a kernel and has let go of it. Between two looks whoever waits offers
its core to all other threads of the machine, so that they lose next to nothing by it.

A worker's word on the board says what it does:

    IDLE      waiting, awake           -> OFFERED by the caller, ASLEEP by itself
    OFFERED   there is work            -> TAKEN by itself, IDLE by a caller that is done without it
    TAKEN     working                  -> IDLE by itself, AWAITED by a caller that goes to sleep for it
    AWAITED   working, to wake the caller when it is done -> IDLE by itself
    ASLEEP    to be woken              -> OFFERED by the caller
"""

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from spaceport_lab.kernels.compiling import kernel
from spaceport_lab.kernels.vector import I32, call

IDLE, OFFERED, TAKEN, AWAITED, ASLEEP = range(5)
WORK, SLEEP, WAKE_CALLER = range(3)
"""What `next_work` tells a worker to do."""

LINE = 16
"""Numbers (int64) from one word to the next, two cache lines: words in one are in each other's way."""


POLITE = hasattr(os, "sched_yield")
"""Whether a thread can give its core to others; where it cannot, nobody should stay awake to wait."""

PAUSES = 16
"""Of the core, some twenty nanoseconds each, between two looks at a word."""


@intrinsic
def _read(typing_context: Any, words: Any, index: Any) -> Any:
    """words[index] of a flat int64 array as it is now, whoever wrote it."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig, args)
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(words, index), generate


@intrinsic
def _replace(typing_context: Any, words: Any, index: Any, old: Any, new: Any) -> Any:
    """Make words[index] `new` where it is `old`, at once; returns what it was."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig, args)
        old, new = (context.cast(builder, args[k], sig.args[k], types.int64) for k in (2, 3))
        return builder.extract_value(builder.cmpxchg(place, old, new, "seq_cst", "seq_cst"), 0)

    return types.int64(words, index, old, new), generate


@intrinsic
def _exchange(typing_context: Any, words: Any, index: Any, new: Any) -> Any:
    """Make words[index] `new`; returns what it was."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig, args)
        new = context.cast(builder, args[2], sig.args[2], types.int64)
        return builder.atomic_rmw("xchg", place, new, "seq_cst")

    return types.int64(words, index, new), generate


@intrinsic
def _pause(typing_context: Any) -> Any:
    """Tell the core that nothing but waiting is done."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        machine = llvmlite.binding.get_process_triple().partition("-")[0]
        if machine in ("x86_64", "i686"):
            call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        elif machine in ("aarch64", "arm64"):
            call(builder, "llvm.aarch64.hint", ir.VoidType(), [ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _let_others_run(typing_context: Any) -> Any:
    """Give the core to another thread that could run, of whichever program, if there is one."""

    def generate(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
        if POLITE:
            call(builder, "sched_yield", I32, [])
        return context.get_dummy_value()

    return types.void(), generate


@kernel(inline=True)
def _wait():
    """A moment, about a microsecond."""
    for _ in range(PAUSES):
        _pause()
    _let_others_run()


def _place(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> Any:
    index = context.cast(builder, args[1], sig.args[1], types.intp)
    return builder.gep(context.make_array(sig.args[0])(context, builder, args[0]).data, [index])


@kernel()
def offer(board, n_workers, sleepers):
    """Offer work to the first workers; returns how many have to be woken, and their numbers in `sleepers`."""
    found = 0
    for worker in range(n_workers):
        if _replace(board, worker * LINE, IDLE, OFFERED) == ASLEEP:
            _exchange(board, worker * LINE, OFFERED)
            sleepers[found] = worker
            found += 1
    return found


@kernel()
def next_work(board, worker, claims, patience, was_working):
    """Wait for work, `patience` looks at the board long.

    A worker takes what is offered once as many shares of it are claimed as there are threads before it: then
    they are in the kernel, and none of them is in its way to the GIL. Or when its patience is at an end: a
    kernel that is being compiled first is better waited for asleep.
    """
    word = worker * LINE
    if was_working and _exchange(board, word, IDLE) == AWAITED:
        return WAKE_CALLER
    while True:
        state = _read(board, word)
        if state == OFFERED:
            in_time = _read(claims, 0) > worker or patience <= 0
            if in_time and _replace(board, word, OFFERED, TAKEN) == OFFERED:
                return WORK
        elif patience <= 0 and _replace(board, word, IDLE, ASLEEP) == IDLE:
            return SLEEP
        _wait()
        patience -= 1


@kernel()
def all_done(board, n_workers, patience):
    """Take back what nobody has taken and wait for the others, `patience` looks long for each.

    Returns:
        -1 when all are done, else a worker that will wake whoever sleeps for it; then ask again.
    """
    for worker in range(n_workers):
        word, left = worker * LINE, patience
        if _replace(board, word, OFFERED, IDLE) == OFFERED:
            continue
        while True:
            state = _read(board, word)
            if state not in (TAKEN, AWAITED):
                break
            if left <= 0 and (state == AWAITED or _replace(board, word, TAKEN, AWAITED) == TAKEN):
                return worker
            _wait()
            left -= 1
    return -1


@kernel()
def look(board, count):
    """As many looks at a word as are asked for, to see how long they take."""
    for _ in range(count):
        _read(board, 0)
        _wait()
