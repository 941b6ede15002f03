"""The outcome of a run in plain words, and its key numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hubless.report.reading import (
    Records,
    dead,
    ending,
    events,
    final,
    hostile,
    last_round,
    metric_names,
    peer_count,
    stages,
    world,
)
from hubless.report.words import count, duration, measured, percent, size, title

Tile = tuple[str, str, str]


def verdict(records: Records, error: str = "") -> str:
    """What came out, in two to five short sentences for someone who has never heard of the method.

    error: the traceback of a run that failed
    """
    peers, rounds = peer_count(records), last_round(records)
    end, planned = ending(records), len(stages(records))
    stopped = error.strip().splitlines()[-1:]
    if not any(r.kind in ("round", "end") for r in records):
        return " ".join(["Nothing has been measured: the run stopped before its first round ended.", *stopped])
    if planned:
        said = [f"{'All' if rounds == planned else f'{rounds} of'} {count(planned, 'stage')} ran."]
    else:
        said = [f"{_who(records, peers)}{_outcome(records, rounds)}.", *_spread(records)]
    said += _trouble(records, peers)
    if stopped:
        said.append(f"The run failed after {'stage' if planned else 'round'} {rounds}: {stopped[0]}")
    elif end is None:
        place = f"{'stage' if planned else 'round'} {rounds}"
        said.append(f"The run was interrupted after {place}; what is shown is what it had by then.")
    elif end.data.get("finished") is False:
        said.append("The run did not finish.")
    if end is not None and final(records, "accuracy") is None and end.data.get("text"):
        said.append(str(end.data["text"]))
    return " ".join(said)


def _who(records: Records, peers: int) -> str:
    if not peers:
        return ""
    if peers == 1:
        return "One peer, alone: "
    role = world(records).get("aggregator")
    hub = "no server" if role is None else f"peer {role} collecting for all"
    return f"{count(peers, 'peer')}, {hub}: "


def _outcome(records: Records, rounds: int) -> str:
    after = f" after {count(rounds, 'round')}"
    accuracy, loss = final(records, "accuracy"), final(records, "loss")
    if accuracy is not None:
        classes = len(world(records).get("classes") or [])
        chance = f" (guessing would give {percent(1 / classes, 0)})" if classes > 1 else ""
        return f"mean accuracy {percent(accuracy)}{after}{chance}"
    if loss is not None:
        return f"mean test loss {measured('loss', loss)}{after}"
    if "accuracy" in metric_names(records):
        return f"no accuracy that is a number{after}"
    return count(rounds, "round")


def _spread(records: Records) -> list[str]:
    worst, best = final(records, "accuracy_worst"), final(records, "accuracy_best")
    if worst is None or best is None or peer_count(records) == 1:
        return []
    if best - worst < 0.02:
        return [f"Every live, honest peer is within {100 * (best - worst):.1f} points of every other."]
    return [f"The weakest live, honest peer has {percent(worst)}, the best {percent(best)}."]


def _trouble(records: Records, peers: int) -> list[str]:
    said = []
    bad, gone = int(hostile(records, peers).sum()), int(dead(records, peers).sum())
    lived = final(records, "alive")
    gone = gone or (peers - int(lived) if lived is not None else 0)
    if bad:
        said.append(f"{bad:,} of the peers {'is' if bad == 1 else 'are'} hostile.")
    alarming = [(t, text) for t, text, level in events(records) if level != "info" and text.strip()]
    if alarming and len(alarming) <= 3:
        said += [f"At round {t}: {text.strip().rstrip('.')}." for t, text in alarming]
    elif gone > 0:
        said.append(f"{count(gone, 'peer')} {'was' if gone == 1 else 'were'} gone by the end.")
    return said


def tiles(records: Records, seconds: float | None) -> list[Tile]:
    """Key numbers as (label, value, remark); ``seconds`` is the wall-clock time, None when unknown."""
    peers = peer_count(records)
    found: list[Tile] = []
    for metric, label in (("accuracy", "Final accuracy"), ("accuracy_worst", "Worst peer"), ("loss", "Test loss")):
        value = final(records, metric)
        alone = peers == 1 and metric == "accuracy_worst"
        if value is not None and not alone and (metric != "loss" or not found):
            remark = {"accuracy": "mean over peers", "accuracy_worst": "live and honest"}.get(metric, "mean over peers")
            found.append((label, measured(metric, value), remark))
    planned, rounds, named = world(records).get("rounds"), last_round(records), stages(records)
    if not found:
        found = _staged(records, named) if named else _own(records)
    planned = len(named) or planned
    short = isinstance(planned, int) and planned > rounds
    found.append(("Stages" if named else "Rounds", f"{rounds:,}", f"of {planned:,} planned" if short else ""))
    if (total := final(records, "bytes")) is not None and peers:
        found.append(("Sent by a peer", size(total / peers), f"{size(total)} by all"))
    if (epsilon := final(records, "epsilon")) is not None:
        delta = final(records, "delta")
        found.append(("Epsilon", f"{epsilon:.3g}", f"at delta = {delta:g}; less is safer" if delta is not None else ""))
    if (clock := final(records, "clock")) is not None:
        found.append(("Simulated time", duration(clock), "by the link model"))
    if seconds is not None:
        found.append(("Wall time", duration(seconds), "on this machine"))
    if (lived := final(records, "alive")) is not None:
        found.append(("Peers alive", f"{lived:,.0f}", f"of {peers:,}" if peers else ""))
    return found


def _own(records: Records) -> list[Tile]:
    """Last values of a recipe's own metrics, at most four: those of the end before those of the rounds."""
    end = ending(records)
    names = list(dict.fromkeys(name for r in ([end] if end else []) + list(reversed(records)) for name in r.metrics))
    known = {"bytes", "clock", "alive", "messages", "trained"}
    shown = [(name, final(records, name)) for name in names if name not in known]
    return [(title(name), measured(name, value), "") for name, value in shown if value is not None][:4]


def _staged(records: Records, named: Sequence[str]) -> list[Tile]:
    """What each stage names first; a stage that measured nothing has none."""
    firsts = [(named[r.round - 1], next(iter(r.metrics.items()))) for r in records if r.kind == "round" and r.metrics]
    return [(title(name), measured(name, value), stage) for stage, (name, value) in firsts][:5]


def summary(config: Mapping[str, Any], records: Records) -> str:
    """One line on what was run: the configuration's own, else the names of its parts."""
    if config.get("summary"):
        return str(config["summary"])
    names = world(records).get("names") or {}
    return " · ".join(str(value) for value in names.values() if value)
