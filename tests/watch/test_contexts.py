"""Threads, tasks and orders of leaving: what is watched belongs to the context that watches, and all is as before."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

import pellucid
from pellucid import restore
from pellucid.capture.contexts import Counted, Opened
from tests.watch import models

WIDTH = 12


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))


def blocks(count: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(count))).eval().requires_grad_(False)


def x(length: int = 7) -> Tensor:
    return torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(length))


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """What functions give that run at once, each in a thread of its own."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result(30) for future in [pool.submit(function) for function in functions]]


def lengths(record: pellucid.Record) -> dict[str, int]:
    return {name: layer.q_len for name, layer in record.items()}


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    """After each test torch is as it was: its fast path, what it compiles, the modes of this thread."""
    fast = torch.backends.mha.get_fastpath_enabled()
    yield
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert _get_current_function_mode_stack() == []
    graphs: list[int] = []
    torch.compile(lambda t: t + 1, backend=lambda graph, inputs: graphs.append(1) or graph.forward)(torch.ones(2))
    assert graphs == [1]
    torch.compiler.reset()


def test_threads_that_watch_models_of_their_own_do_not_meet() -> None:
    start = threading.Barrier(2)

    def rounds(length: int) -> list[dict[str, int]]:
        model, found = blocks(), []
        for _ in range(11):
            start.wait(30)
            with pellucid.watch(model) as record:
                model(x(length))
            found.append(lengths(record))
        return found

    short, long = in_threads(lambda: rounds(5), lambda: rounds(7))
    assert short == [{"0": 5, "1": 5, "2": 5}] * 11
    assert long == [{"0": 7, "1": 7, "2": 7}] * 11


@pytest.mark.parametrize("name", ["bert", "gptj", "eager llama"])
def test_another_threads_forward_of_the_same_model_is_its_own_affair(name: str) -> None:
    model, inputs = models.made(name.split()[-1])
    if name.startswith("eager"):
        model.set_attn_implementation("eager")
    expected = model(**inputs, output_attentions=True)
    with pellucid.watch(model) as record:
        (served,) = in_threads(lambda: model(**inputs, output_attentions=True))
        assert record.layers == []
        model(**inputs)
    assert torch.equal(served[0], expected[0])
    assert len(served.attentions) == len(expected.attentions)
    assert all(map(torch.equal, served.attentions, expected.attentions))
    assert len(record) == 2


def test_torchs_fast_path_stays_on_in_other_threads() -> None:
    model = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True).eval().requires_grad_(False)
    expected = model(x())
    with pellucid.watch(model) as record:
        (served,) = in_threads(lambda: model(x()))
        model(x())
    assert torch.equal(served, expected)  # to the last bit by the same kernel
    assert record.layers == ["self_attn"]


def test_a_pools_thread_is_seen_where_it_is_given_the_context() -> None:
    model = blocks()
    with pellucid.watch(model) as record:
        in_threads(lambda: model(x()))
        assert record.layers == []
        run = contextvars.copy_context().run
        in_threads(lambda: run(model, x()))
        assert record.layers == ["0", "1", "2"]
    in_threads(lambda: model(x()))
    with pellucid.watch(model) as plain:
        model(x())
    assert all(torch.equal(record[name].entropy, plain[name].entropy) for name in plain)


def test_two_threads_of_one_watch_take_turns() -> None:
    model, start = blocks(), threading.Barrier(3)

    def run(length: int) -> None:
        start.wait(30)
        for _ in range(5):
            model(x(length))

    with pellucid.watch(model) as record:
        runs = [(contextvars.copy_context().run, length) for length in (2, 5, 7)]
        in_threads(*(lambda run_in=run_in, length=length: run_in(run, length) for run_in, length in runs))
    passes = list(zip(*(iter(record.values()),) * 3, strict=True))
    assert len(passes) == 15
    assert all(len({layer.q_len for layer in one}) == 1 for one in passes)
    assert [[layer.name.split("#")[0] for layer in one] for one in passes] == [["0", "1", "2"]] * 15


def test_a_model_that_uses_threads_itself_is_seen_in_them() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = blocks(2)

        def forward(self, x: Tensor) -> Tensor:
            runs = [(contextvars.copy_context().run, branch) for branch in self.branches]
            return sum(in_threads(*(lambda run=run, branch=branch: run(branch, x) for run, branch in runs)))

    model = Parallel()
    with pellucid.watch(model) as record:
        model(x())
    assert set(record) == {"branches.0", "branches.1"}


def test_contexts_may_be_left_in_another_order() -> None:
    one, other = blocks(1), blocks(2)
    stacks = [ExitStack(), ExitStack(), ExitStack()]
    first = stacks[0].enter_context(pellucid.watch(one))
    second = stacks[1].enter_context(pellucid.watch(other))
    stacks[2].enter_context(pellucid.everywhere())
    both = [one(x()), other(x())]
    stacks[0].close()
    assert type(one) is nn.Sequential
    other(x())
    one(x())
    stacks[2].close()
    other(x())
    stacks[1].close()
    assert (len(first), len(second)) == (1, 6)
    torch.testing.assert_close([one(x()), other(x())], both, atol=1e-6, rtol=1e-5)
    assert [type(module) for module in (other, *other)] == [nn.Sequential, Block, Block]


def test_everywhere_may_be_left_in_another_order_and_in_another_thread() -> None:
    inner, outer = pellucid.everywhere(), pellucid.everywhere()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert len(_get_current_function_mode_stack()) == 1
    in_threads(lambda: inner.__exit__(None, None, None))
    query = x().unsqueeze(1)
    expected = in_threads(lambda: functional.scaled_dot_product_attention(query, query, query))[0]
    assert torch.equal(functional.scaled_dot_product_attention(query, query, query), expected)
    with pellucid.everywhere():
        pass  # what another thread could not take off this one's stack is gone now


def test_a_watch_left_in_another_thread_is_over() -> None:
    model = blocks()
    watching = pellucid.watch(model)
    record = watching.__enter__()
    model(x())
    in_threads(lambda: watching.__exit__(None, None, None))
    assert record.complete
    model(x())
    assert record.layers == ["0", "1", "2"]
    assert type(model[0]) is Block


def test_a_generator_closed_late_ends_its_watch() -> None:
    model = blocks(1)

    def watched() -> Any:
        with pellucid.watch(model) as record:
            yield record

    early, late = watched(), watched()
    first, second = next(early), next(late)
    early.close()
    model(x())
    late.close()
    assert (first.layers, second.layers) == ([], ["0"])
    assert type(model[0]) is Block


def test_tasks_of_asyncio_each_see_their_own() -> None:
    model = blocks(2)

    async def watched(length: int) -> dict[str, int]:
        with pellucid.watch(model) as record:
            for _ in range(3):
                await asyncio.sleep(0)
                model(x(length))
        return lengths(record)

    async def both() -> list[dict[str, int]]:
        return await asyncio.gather(watched(5), watched(7))

    short, long = asyncio.run(both())
    assert set(short.values()) == {5}
    assert set(long.values()) == {7}
    assert len(short) == len(long) == 6


def test_the_settings_of_a_model_are_its_own_once_its_last_watch_is_left() -> None:
    model, inputs = models.made("bert")
    first, second = pellucid.watch(model), pellucid.watch(model)
    first.__enter__()
    record = second.__enter__()
    model.set_attn_implementation("eager")
    model(**inputs)
    first.__exit__(None, None, None)
    model(**inputs)
    second.__exit__(None, None, None)
    assert len(record) == 4
    assert set(models.settings(model)) == {"sdpa"}


@pytest.mark.parametrize("kind", ["bert", "torch"])
def test_accelerated_inside_a_watch_and_restored_after_it(kind: str) -> None:
    model, call = blocks(1), lambda: model(x())
    if kind == "bert":
        model, inputs = models.made("bert")
        call = lambda: model(**inputs)  # noqa: E731
    own = type(model)
    with pellucid.watch(model) as record:
        pellucid.accelerate(model)
        call()
    assert len(record) == (2 if kind == "bert" else 1)
    assert type(model) is not own
    assert kind != "bert" or set(models.settings(model)) == {"pellucid"}
    with pellucid.watch(model):
        call()
        restore(model)
    assert type(model) is own
    assert kind != "bert" or set(models.settings(model)) == {"sdpa"}


def test_what_is_open_is_asked_of_the_context() -> None:
    opened: Opened[int] = Opened("numbers")
    with opened.holding(2), opened.holding(3):
        copied = contextvars.copy_context()
        assert opened.here() == copied.run(opened.here) == (2, 3)
        assert in_threads(opened.here) == [()]
    assert opened.here() == copied.run(opened.here) == ()


def test_a_change_of_the_process_is_made_by_the_first_and_undone_by_the_last() -> None:
    said: list[str] = []

    def change() -> Callable[[], object]:
        said.append("made")
        return lambda: said.append("undone")

    counted = Counted(change)
    one, other = counted.made(), counted.made()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert said == ["made"]
    other.__exit__(None, None, None)
    assert said == ["made", "undone"]


def test_a_listener_may_watch_a_model_of_its_own() -> None:
    model, other, seen = blocks(1), blocks(2), []

    def listen(layer: pellucid.Layer) -> None:
        with pellucid.watch(other) as record:
            other(x())
        seen.append(record.layers)

    with pellucid.watch(model, on_layer=listen) as record:
        model(x())
    assert (record.layers, seen) == (["0"], [["0", "1"]])
