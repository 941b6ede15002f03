"""Runs of recipes on workers that live in the tests' own process: the same bytes as between processes, without them."""

from dataclasses import replace

from hubless.learn.backends import hosts
from hubless.run.source import find_recipe


class Here(hosts.Here):
    """A worker in this process that may die: ``fatal`` counts down the commands that any may still be given."""

    fatal = None
    started = 0

    def __init__(self):
        super().__init__()
        type(self).started += 1

    def send(self, command):
        if type(self).fatal is not None:
            type(self).fatal -= 1
            if type(self).fatal < 0:
                type(self).fatal = None
                raise hosts.HostLost("killed by the test")
        super().send(command)


def build(recipe, backend="in-process", workers=2, **options):
    """A recipe at its preset tiny."""
    given = {"threads": 1, "backend": backend, "workers": workers if backend != "in-process" else 0, **options}
    return find_recipe(recipe).build(given, "tiny")


def lines(run, resume=None):
    """Its records as they are written."""
    return [record.line() for record in run.records(resume)]


def stopped(run, after):
    """The records up to a round, and the state then."""
    found = []
    for record in run.records():
        found.append(record.line())
        if record.kind == "round" and record.round == after:
            snapshot = run.snapshot()
            return found, replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()})
    raise AssertionError(f"no round {after}")
