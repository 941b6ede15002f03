import sys

import pytest

from hubless.errors import ConfigError, MessageError, RecordRefused
from hubless.net.crdt import deltas
from hubless.net.crdt.chain import Op
from hubless.net.crdt.documents import Updates, View, opened, speaker
from hubless.net.crdt.persistence import written
from hubless.net.crdt.replica import Replica
from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity

loro = pytest.importorskip("loro", reason="needs the extra [crdt]")
LIAR, OTHER = Identity.derived(5, 7), Identity.derived(5, 6)


def edited(text, peer, at=0, base=b""):
    """A loro update of one peer that inserts a text."""
    document = loro.LoroDoc()
    if base:
        document.import_(base)
    document.peer_id = peer
    start = document.oplog_vv
    document.get_text("t").insert(at, text)
    document.commit()
    return document.export(loro.ExportMode.Updates(start))


def test_edits_of_several_members_come_together(on_bench):
    async def body(bench):
        one, two = (store.document("paper") for store in bench.stores)
        one.loro.get_text("t").insert(0, "hello")
        assert one.commit() == 5
        assert one.commit() == 0
        await bench.sweep()
        assert two.value() == {"t": "hello"}
        one.loro.get_text("t").insert(5, " left"), one.loro.get_map("m").insert("k", [1, 2])
        two.loro.get_text("t").insert(0, "right ")
        one.commit(), two.commit()
        await bench.sweep()
        assert one.value() == two.value() == {"t": "right hello left", "m": {"k": [1, 2]}}
        assert bench.stores[0].value("paper") == one.value()
        assert bench.equal()

    on_bench(body, 2)


def test_arriving_changes_leave_uncommitted_ones_in_place(on_bench):
    async def body(bench):
        one, two = (store.document("d") for store in bench.stores)
        one.loro.get_text("t").insert(0, "mine")
        two.loro.get_map("m").insert("k", 1)
        two.commit()
        await bench.sweep()
        assert one.value() == {"t": "mine", "m": {"k": 1}}
        assert two.value() == {"m": {"k": 1}}
        one.commit()
        await bench.sweep()
        assert two.value() == one.value()

    on_bench(body, 2)


def test_a_long_change_goes_in_several_operations(on_bench):
    async def body(bench):
        one, two = (store.document("d") for store in bench.stores)
        text = "".join(f"{n:x}" for n in range(40_000))
        one.loro.get_text("t").insert(0, text)
        one.commit()
        assert bench.stores[0].lengths()[bench.nets[0].peer_id] > 1
        await bench.sweep()
        assert two.value() == {"t": text}
        one.loro.get_map("m").insert("k", bytes(200_000))
        with pytest.raises(RecordRefused, match="200"):
            one.commit()

    on_bench(body, 2)


def test_an_actor_speaks_only_for_itself_and_leaves_no_gap():
    me, other = speaker(LIAR.peer_id, 0), speaker(OTHER.peer_id, 0)
    first = edited("abc", me)
    second = edited("def", me, base=first)
    document = loro.LoroDoc()
    document.import_(first)
    everything = document.export(loro.ExportMode.Snapshot())
    junk = [b"", b"junk", first[:-2], bytes(100), edited("xyz", other), edited("again", me), everything]
    view, state = View(), Updates()
    for seq, update in enumerate([first, *junk, edited("ghi", me, base=edited("abcd", me)), second]):
        state.merge(Updates({(LIAR.peer_id, seq): (0, update)}))
        view.read(state)
    assert view.loro.get_deep_value() == {"t": "defabc"}
    assert view.refused == len(junk) + 1
    assert view.ends == {(LIAR.peer_id, 0): 6}


def test_replicas_leave_out_the_same_whatever_came_first():
    me, other = speaker(LIAR.peer_id, 0), speaker(OTHER.peer_id, 0)
    base = edited("abc", other)
    updates = {
        (LIAR.peer_id, 0): (0, edited("on it", me, base=base)),
        (LIAR.peer_id, 1): (0, edited("instead", me)),
        (OTHER.peer_id, 0): (0, base),
    }
    values = []
    for order in (list(updates), list(updates)[::-1], [(OTHER.peer_id, 0), (LIAR.peer_id, 0), (LIAR.peer_id, 1)]):
        view, state = View(), Updates()
        for dot in order:
            if dot[0] == LIAR.peer_id and (LIAR.peer_id, dot[1] - 1) not in state.held and dot[1]:
                continue  # chains arrive in order
            state.merge(Updates({dot: updates[dot]}))
            view.read(state)
        for dot in updates:
            state.merge(Updates({dot: updates[dot]}))
            view.read(state)
        values.append(view.loro.get_deep_value())
    assert values == [{"t": "on itabc"}] * 3


def test_edits_go_on_after_somebody_they_built_on_was_cut(on_bench):
    async def body(bench):
        one, two = bench.stores
        replica, twin = Replica("doc"), Replica("doc")
        lies = [replica.write(LIAR, deltas.Edit("d", 0, edited(text, speaker(LIAR.peer_id, 0)))) for text in ("lie",)]
        one.load(written("doc", "", [(lies[0],)]))
        document = one.document("d")
        held = document.loro
        held.get_text("t").insert(3, " and truth")
        document.commit()
        assert document.value() == {"t": "lie and truth"}
        other = twin.write(LIAR, deltas.Grow("g", 1))
        one.load(written("doc", "", [(lies[0], other)]))
        assert document.value() == {"t": ""}, "what was built on it goes with it"
        assert document.loro is not held
        document.loro.get_text("t").insert(0, "anew")
        assert document.commit() == 4
        await bench.sweep()
        assert two.document("d").value() == one.document("d").value() == {"t": "anew"}
        assert bench.equal()

    on_bench(body, 2)


def test_a_document_goes_on_after_a_restart(on_bench, tmp_path):
    async def body(bench):
        one, two = bench.stores
        document = one.document("d")
        document.loro.get_text("t").insert(0, "before ")
        document.commit()
        await one.exchange(two.net.peer_id)
        one.close()
        again = CrdtStore(one.net, "doc", one._members, every=0, folder=tmp_path / one.net.peer_id[:8])
        document = again.document("d")
        document.loro.get_text("t").insert(7, "after")
        document.commit()
        await again.exchange(two.net.peer_id)
        assert two.document("d").value() == {"t": "before after"}
        again.close()

    def make(net, **options):
        members = [Identity.derived(5, i).peer_id for i in range(2)]
        return CrdtStore(net, "doc", lambda: members, folder=tmp_path / net.peer_id[:8], **options)

    on_bench(body, 2, make=make)


def test_a_shallow_snapshot_has_the_state_and_not_the_history(on_bench):
    async def body(bench):
        document = bench.stores[0].document("d")
        for n in range(2000):
            document.loro.get_map("m").insert("k", n)
        document.commit()
        shallow = document.shallow()
        assert opened(shallow).get_deep_value() == document.value() == {"m": {"k": 1999}}
        assert len(shallow) < 0.1 * len(document.loro.export(loro.ExportMode.Snapshot()))
        with pytest.raises(MessageError, match="loro"):
            opened(b"junk")

    on_bench(body, 1)


def test_without_loro_operations_are_carried_and_reading_says_what_is_missing(on_bench, monkeypatch):
    async def body(bench):
        one, two = bench.stores
        one.document("d").loro.get_text("t").insert(0, "text")
        one.document("d").commit()
        monkeypatch.setitem(sys.modules, "loro", None)
        await bench.sweep()
        assert bench.equal()
        with pytest.raises(ConfigError, match=r"hubless\[crdt\]"):
            two.value("d")
        with pytest.raises(ConfigError, match=r"hubless\[crdt\]"):
            two.document("d")

    on_bench(body, 2)


def test_operations_with_updates_decode_without_loro(monkeypatch):
    monkeypatch.setitem(sys.modules, "loro", None)
    op = Replica("doc").write(LIAR, deltas.Edit("d", 0, b"any bytes"))
    assert Op(*op.pair()).delta.tree() == op.delta.tree()
