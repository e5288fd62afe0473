"""A wrong contender gets no number, and is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.contenders import CONTENDERS, eager, pellucid, sdpa
from benchmarks.contenders.contract import Answer, Ready, UnableError
from benchmarks.goals import Faster
from benchmarks.limits import Limits
from benchmarks.measuring import run
from benchmarks.measuring.check import WrongAnswerError, check, oracle
from benchmarks.measuring.timing import Plan
from benchmarks.task import Task, unmasked
from benchmarks.work import Entry, Race
from pellucid import masks
from pellucid.readouts import Entropy, Received, TopK
from tests.cases import Call, normal

TASKS: dict[str, Callable[[], Task]] = {
    "full": lambda: unmasked(2, 3, 17, 5, torch.float32),
    "causal": lambda: unmasked(2, 3, 17, 5, torch.bfloat16, is_causal=True),
    "window": lambda: replace(unmasked(1, 2, 19, 5, torch.float32), mask_mod=masks.sliding_window(3, 0)),
    "score": lambda: replace(unmasked(1, 2, 19, 5, torch.float32), score_mod=lambda s, b, h, q, k: s - 0.1 * (q - k)),
    "notebook": lambda: Task(Call(*(normal(10, 4, dtype=torch.float32),) * 3)),
    "groups": lambda: Task(
        Call(normal(1, 6, 1, 5, dtype=torch.float32), *(normal(1, 2, 23, 5, dtype=torch.float32),) * 2, enable_gqa=True)
    ),
    "readouts": lambda: replace(unmasked(1, 3, 23, 5, torch.float32), readouts=(Entropy(), Received(), TopK(4))),
}


def _learned_table() -> Task:
    table = normal(3, 45, dtype=torch.float32, seed=3).requires_grad_()
    score_mod: Callable[..., Any] = lambda s, b, h, q, k: s + table[h, q - k + 22]  # noqa: E731
    return replace(unmasked(1, 3, 23, 5, torch.float32), score_mod=score_mod, learned=(table,))


STEPS: dict[str, Callable[[], Task]] = {
    "full": TASKS["full"],
    "causal": TASKS["causal"],
    "window": TASKS["window"],
    "window, dense": lambda: replace(
        TASKS["window"](), dense_mask=torch.ones(19, 19, dtype=torch.bool).tril().triu(-3)
    ),
    "mask that learns": lambda: replace(
        TASKS["full"](), call=replace(TASKS["full"]().call, attn_mask=normal(2, 3, 17, 17, dtype=torch.float32, seed=5))
    ),
    "table that learns": _learned_table,
    "entropy": lambda: replace(unmasked(1, 3, 23, 5, torch.float32), readouts=(Entropy(),)),
    "dropout": lambda: replace(TASKS["full"](), dropout_p=0.3),
}


def _step(name: str) -> Task:
    return replace(STEPS[name](), trains=True)


@pytest.mark.parametrize("some", [False, True], ids=["all queries", "some"])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_ours_and_of_torchs_is_right(name: str, some: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if some:
        monkeypatch.setattr("benchmarks.contenders.training.MOST_ENTRIES", 2 * 19 * 7)
    task = _step(name)
    exact = oracle(task)
    assert (check(_answer(pellucid, task), exact, ours=True) > 0) == (name != "dropout")
    if name not in ("window", "table that learns", "entropy"):  # which torch has not
        check(_answer(sdpa, task), exact, ours=False)


@pytest.mark.parametrize("name", [name for name in STEPS if name != "dropout"])
def test_a_gradient_that_is_a_little_off_is_wrong(name: str) -> None:
    task = _step(name)
    answer, exact = _answer(pellucid, task), oracle(task)
    for gradient in answer.gradients:
        gradient[..., -1, -1] += 1.0
        with pytest.raises(WrongAnswerError, match=r"wrong: gradient \d is off by"):
            check(answer, exact, ours=True)
        gradient[..., -1, -1] -= 1.0
    answer.gradients[0][:] = torch.nan
    with pytest.raises(WrongAnswerError, match="not finite"):
        check(answer, exact, ours=True)


def test_a_step_of_what_has_no_gradient_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entropy, "differentiable", False)
    with pytest.raises(UnableError, match="no gradient"):
        pellucid.prepare(_step("entropy")).run()


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return TASKS[request.param]()


def _answer(contender: Any, task: Task) -> Answer:
    ready = contender.prepare(task)
    answer: Answer = ready.answer(ready.run())
    return answer


def test_ours_is_right(task: Task) -> None:
    assert check(_answer(pellucid, task), oracle(task), ours=True) > 0


def test_an_output_that_is_a_little_off_is_wrong(task: Task) -> None:
    answer = _answer(pellucid, task)
    off = answer.output + 0.2
    with pytest.raises(WrongAnswerError, match=r"error 0\.2"):
        check(Answer(off, answer.readings), oracle(task), ours=False)


@pytest.mark.parametrize("wrong", [lambda x: x[..., :1], lambda x: x * torch.nan], ids=["shape", "NaN"])
def test_another_shape_or_nan_is_wrong(wrong: Callable[[Tensor], Tensor]) -> None:
    task = TASKS["full"]()
    with pytest.raises(WrongAnswerError):
        check(Answer(wrong(_answer(sdpa, task).output)), oracle(task), ours=False)


def test_a_wrong_readout_is_wrong() -> None:
    task = TASKS["readouts"]()
    answer = _answer(eager, task)
    check(answer, oracle(task), ours=False)
    with pytest.raises(WrongAnswerError, match="received is off"):
        check(
            Answer(answer.output, answer.readings | {"received": answer.readings["received"] * 1.01}),
            oracle(task),
            ours=False,
        )


def test_a_long_call_is_checked_at_some_of_its_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measuring.check.MOST_ENTRIES", 6 * 257 * 9)
    task = replace(unmasked(2, 3, 257, 5, torch.float32), mask_mod=masks.sliding_window(20, 0))
    exact = oracle(task)
    assert exact.queries[0] == 0
    assert exact.queries[-1] == 256
    assert 2 < len(exact.queries) <= 9
    output = _answer(pellucid, task).output
    check(Answer(output), exact, ours=True)
    output[..., exact.queries[1], :] = 0
    with pytest.raises(WrongAnswerError):
        check(Answer(output), exact, ours=True)


def test_a_wrong_contender_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(task: Task) -> Ready:
        return Ready(lambda: task.call.query * 0.5)

    def broken(task: Task) -> Ready:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(CONTENDERS, "liar", SimpleNamespace(NAME="liar", PACKAGES=(), prepare=prepare))
    monkeypatch.setitem(CONTENDERS, "broken", SimpleNamespace(NAME="broken", PACKAGES=(), prepare=broken))
    names = ("pellucid", "liar", "broken", "torch SDPA", "JAX")
    race = Race(
        "one of them lies",
        tuple(Entry(name, TASKS["full"]) for name in names),
        (Faster(2, "liar"), Faster(0, "torch SDPA"), Faster(1, "JAX")),
    )
    raced = run.race(race, Limits({}, {}, None), {"JAX": "jax not installed"}, Plan(2, 1.0))
    assert list(raced.timed) == ["pellucid", "torch SDPA"]
    assert "wrong: error" in raced.refused["liar"]
    assert raced.refused["broken"] == "failed: RuntimeError: no such kernel"
    verdicts = [goal.judge(raced) for goal in race.goals]
    assert [verdict.met for verdict in verdicts] == [None, True, None]
    assert "wrong" in verdicts[0].reason
    assert "not installed" in verdicts[2].reason
