"""While one thread traces, no other runs a module; many may run at a time."""

import threading
from contextlib import suppress

import pytest
import torch
from torch import nn

from hubless.learn import Model
from hubless.learn.context import Batch
from hubless.learn.gate import Gate
from hubless.learn.kernels.dense import Dense
from hubless.learn.kernels.graph import Graph
from hubless.learn.kernels.layers import UnknownLayerError


def test_one_traces_or_many_run():
    gate, order, inside = Gate(), [], threading.Barrier(2)

    def run(name):
        with gate.running():
            inside.wait(20)  # both are inside at once
            order.append(name)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    inside_before = threading.Event()

    def late():
        inside_before.set()
        with gate.running():
            order.append("late")

    for thread in threads:
        thread.join(20)
    with gate.tracing():
        with gate.running():  # what is traced may run
            order.append("traced")
        other = threading.Thread(target=late)
        other.start()
        inside_before.wait(20)
        assert order == [*sorted(order[:2], key=order.index), "traced"]
    other.join(20)
    assert set(order[:2]) == {"a", "b"}
    assert order[2:] == ["traced", "late"]


def test_a_failure_leaves_the_gate_open():
    gate = Gate()
    for way in (gate.running, gate.tracing):
        with pytest.raises(ValueError), way():
            raise ValueError
    with gate.tracing(), gate.running():
        pass


class Slow(nn.Module):
    """While it is traced, it gives another thread the time to run a network."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.tracer, self.begun, self.other = None, threading.Event(), threading.Event()

    def __deepcopy__(self, memo):  # events are not copied, and not to be
        return self

    def forward(self, x):
        if threading.get_ident() == self.tracer:
            self.begun.set()
            self.other.wait(0.3)  # the other is through only if nothing holds it
        return self.inner(x)


def graph(model):
    x, y = torch.randn(2, 4, 6), torch.zeros(2, 4, dtype=torch.int64)
    Graph(model).grad(torch.zeros(2, model.size), {}, Batch(x, y))


def dense(model):
    with suppress(UnknownLayerError):  # tracing is how it finds out
        Dense(model)


@pytest.mark.parametrize("trace", [graph, dense])
def test_a_part_may_run_a_network_while_another_thread_traces_one(trace):
    slow, other = Slow(), Model(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)))
    model, w = Model(lambda: slow), other.start(0)
    failed = []

    def forward():
        slow.begun.wait(20)
        try:
            other.forward(w, torch.randn(4, 6))
        except Exception as error:
            failed.append(error)
        slow.other.set()

    thread = threading.Thread(target=forward)
    thread.start()
    slow.tracer = threading.get_ident()
    trace(model)
    thread.join(20)
    assert failed == []
    assert slow.begun.is_set()
