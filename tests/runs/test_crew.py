"""Threads that take shares of a step, and runs that are trained by them."""

from __future__ import annotations

import signal
import sys
import threading

import pytest
import torch

from cptlib.runs import engine, ladder_gradient
from cptlib.runs.crew import Crew
from cptlib.runs.engine import Engine
from cptlib.runs.spec import Evaluation, ModelSpec, Schedule
from cptlib.runs.train import train, train_together

pytestmark = pytest.mark.usefixtures("small_shares")
DEFAULT = engine.OWN_VALUES
ALONE, SHARED = (Engine(device="cpu", threads=n) for n in (1, 2))


@pytest.fixture
def small_shares(monkeypatch):
    """Models as small as those here are given shares too."""
    monkeypatch.setattr(engine, "OWN_VALUES", 1)


@pytest.fixture
def pair():
    threads, denormals = torch.get_num_threads(), sys.float_info.min / 2 > 0
    yield Crew(2)
    torch.set_flush_denormal(not denormals)
    torch.set_num_threads(threads)


def test_each_computes_alone_and_results_keep_their_order(pair):
    met = threading.Barrier(2)  # so that neither thread takes both

    def work(item: int) -> tuple:
        met.wait()
        tiny = torch.tensor([torch.finfo(torch.float32).tiny])
        return item, threading.get_ident(), torch.get_num_threads(), (tiny / 2).item()

    first, second = pair(work, [3, 4])
    assert (first[0], second[0]) == (3, 4)
    assert len({first[1], second[1], threading.get_ident()}) == 3
    assert first[2:] == second[2:] == (1, 0.0)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_failure_or_an_interrupt_is_raised_when_no_thread_works_any_more(pair, interrupted):
    met, ended = threading.Barrier(2), []

    def work(item: str) -> None:
        met.wait()
        if item == "stops":
            if interrupted:
                signal.raise_signal(signal.SIGINT)
                return
            raise ValueError(item)
        torch.ones(1500, 1500) @ torch.ones(1500, 1500)
        ended.append(item)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process begun in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt if interrupted else ValueError):
            pair(work, ["stops", "goes on"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == ["goes on"]


def curves(result) -> tuple[list, list, list]:
    return result.curves.train_loss, result.curves.grad_norm, [e["loss"] for e in result.curves.evaluations]


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_a_run_of_two_threads_is_that_of_one_and_repeats_to_the_bit(tiny, micro_batch):
    gentle = Schedule("constant", 1e-3)  # at a high rate AdamW magnifies rounding from step to step
    spec = tiny(model=ModelSpec(48, 32), evaluation=Evaluation(("plain", "rules"), 300), schedule=gentle)
    alone = train(spec, ALONE)
    parts = Engine(device="cpu", threads=2, micro_batch=micro_batch)
    assert parts.hands(spec) == 2
    shared, again = train(spec, parts), train(spec, parts)
    assert curves(shared) == curves(again)
    assert curves(shared)[0] != curves(alone)[0]  # sums in another order
    for made, wanted in zip(curves(shared), curves(alone), strict=True):
        assert made == pytest.approx(wanted, rel=1e-5)


def test_a_run_of_two_threads_resumes_to_the_bit(tiny):
    class Pulled(Exception):
        """The plug."""

    def pull(step: int, loss: float) -> None:
        if step == 12:
            raise Pulled

    undisturbed = train(tiny(), SHARED)
    with pytest.raises(Pulled):
        train(tiny(), Engine(device="cpu", threads=2, checkpoint_seconds=0), progress=pull)
    assert curves(train(tiny(), SHARED)) == curves(undisturbed)


def test_what_a_thread_raises_ends_the_run_and_gives_the_threads_of_the_caller_back(tiny, monkeypatch):
    written, before = ladder_gradient.loss_and_gradient, torch.get_num_threads()

    def fails(*arguments):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("no room in a thread")
        return written(*arguments)

    monkeypatch.setattr(ladder_gradient, "loss_and_gradient", fails)
    with pytest.raises(MemoryError, match="no room in a thread"):
        train_together([tiny(), tiny(seed=8)], SHARED)
    assert torch.get_num_threads() == before
    train_together([tiny()], ALONE)  # one thread is the caller's own


def test_small_steps_and_what_is_not_written_out_are_left_to_the_threads_of_an_operation(tiny, monkeypatch):
    monkeypatch.setattr(engine, "OWN_VALUES", DEFAULT)
    shown = Evaluation(("plain",), 256)
    spec = tiny(model=ModelSpec(64, 32), tokens=2 * 4096, batch_tokens=4096, evaluation=shown)
    assert SHARED.hands(spec) == 2 and SHARED.hands(tiny()) == 1
    assert SHARED.hands(spec.but(precision="bf16")) == 2
    assert Engine(device="cpu", threads=2, compiled=True).hands(spec) == 1
    assert Engine(device="cpu", threads=2, micro_batch=1).hands(spec) == 1  # one sequence at a time, as was asked
