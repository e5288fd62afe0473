"""Kernels on torch's threads: any number of them, from anywhere, and in children that have none."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import pellucid
from pellucid import engines, readouts
from pellucid.engines.cpu.machine import threads
from tests.engines.cpu.forked import exit_code, forked

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(autouse=True)
def engine() -> Iterator[None]:
    """Every test uses the compiled engine, and the number of threads is as before afterwards."""
    before = torch.get_num_threads()
    with engines.using("cpu"), torch.no_grad():
        yield
    torch.set_num_threads(before)


def everything(seed: int = 0) -> list[Tensor]:
    """What a call with every readout gives, and decode over several ranges of keys, of the same inputs each time."""
    draw = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(2, 3, length, 24, generator=draw) for length in (401, 530, 530))
    long_key, long_value = torch.randn(2, 1, 2, 4099, 24, generator=draw).unbind(0)
    read = [
        pellucid.Entropy(),
        pellucid.TopK(5),
        pellucid.Received(),
        pellucid.Pooled(7, 9),
        pellucid.PooledMax(9, 7),
        readouts.mean_distance(),
    ]
    output, seen = pellucid.observe(query, key, value, is_causal=True, readouts=read)
    few, of_few = pellucid.observe(query[:1, :2, :3], long_key, long_value, readouts=[pellucid.TopK(5)])
    names = ("lse", "entropy", "received", "pooled", "pooled_max", "mean_distance")
    return [output, few, of_few.lse, *seen.topk, *of_few.topk, *(seen[name] for name in names), seen.weights()]


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_number_of_threads_changes_no_bit() -> None:
    results = []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        results.append(everything())
    assert all(same(result, results[0]) for result in results[1:])


def test_the_number_of_threads_is_honoured() -> None:
    """Who runs it, seen from inside: as many calls as threads, at most."""
    callback = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        calls = []
        noted = callback(lambda begin, end, context, calls=calls: calls.append((begin, end, threading.get_ident())))
        threads.run(ctypes.cast(noted, ctypes.c_void_p).value, 0, number)
        assert sorted(call[:2] for call in calls) == [(i, i + 1) for i in range(number)]
        assert len({ident for *_, ident in calls}) == number


def test_several_python_threads_at_once() -> None:
    torch.set_num_threads(2)
    wanted = [everything(seed) for seed in range(4)]
    together, right = threading.Barrier(4), []

    def work(seed: int) -> None:
        torch.set_num_threads(2)  # which OpenMP keeps for each thread
        together.wait()
        with engines.using("cpu"), torch.no_grad():
            right.extend(same(everything(seed), wanted[seed]) for _ in range(5))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [True] * 20


def test_inside_a_parallel_region_of_torch() -> None:
    torch.set_num_threads(2)
    wanted, right = everything(), []

    def body(begin: int, end: int, context: int) -> None:
        with engines.using("cpu"), torch.no_grad():
            right.extend(same(everything(), wanted) for _ in range(begin, end))

    callback = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(body)
    threads.run(ctypes.cast(callback, ctypes.c_void_p).value, 0, 2)
    assert right == [True, True]


def test_after_a_failed_allocation() -> None:
    wanted = everything()
    query, key = torch.randn(1, 1, 1, 8).expand(1, 1, 1 << 50, 8), torch.randn(1, 1, 100, 8)
    with pytest.raises(RuntimeError, match=r"memory|allocate"):
        pellucid.attention(query, key, key)
    with pytest.raises(RuntimeError, match=r"memory|allocate"):
        threads.scratch(1 << 60)
    assert same(everything(), wanted)


@fork
def test_a_forked_child_computes() -> None:
    torch.set_num_threads(2)
    wanted = everything()
    torch.randn(1 << 20).exp()  # torch's own threads are at work as well
    assert exit_code(forked(lambda: same(everything(), wanted))) == 0
    assert same(everything(), wanted)


@fork
def test_a_child_of_a_child_computes() -> None:
    torch.set_num_threads(2)
    wanted = everything()
    assert exit_code(forked(lambda: exit_code(forked(lambda: same(everything(), wanted))) == 0)) == 0


@fork
def test_a_forked_child_compiles_what_another_thread_was_compiling() -> None:
    """Forked from one thread while others compile: no lock is left behind that nobody will ever release."""
    torch.set_num_threads(2)
    stop = threading.Event()

    def compile_much() -> None:
        with engines.using("cpu"), torch.no_grad():
            number = 0
            while not stop.is_set():
                x, number = torch.randn(1, 20, 4), number + 1
                pellucid.attention(x, x, x, score_mod=lambda s, b, h, q, k, n=number: s + float(n))

    def compiles() -> bool:
        x = torch.randn(1, 20, 4)
        output = pellucid.attention(x, x, x, score_mod=lambda s, b, h, q, k: s + os.getpid() % 1000 * 1.0)
        return torch.allclose(output, torch.nn.functional.scaled_dot_product_attention(x, x, x), atol=1e-3)

    worker = threading.Thread(target=compile_much)
    worker.start()
    try:
        assert [exit_code(forked(compiles)) for _ in range(5)] == [0] * 5
    finally:
        stop.set()
        worker.join()


def _same_as(wanted: list[Tensor]) -> bool:
    with engines.using("cpu"), torch.no_grad():
        return same(everything(), wanted)


@fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that there are threads is the point
def test_workers_of_multiprocessing_by_fork() -> None:
    torch.set_num_threads(2)
    wanted = [tensor.numpy() for tensor in everything()]  # not by torch's own shared memory
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(_same_as, [[torch.from_numpy(array) for array in wanted]] * 4).get(120)
    assert found == [True] * 4
