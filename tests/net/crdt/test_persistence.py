import os
import signal
import subprocess
import sys
from random import Random

import pytest

from hubless.errors import CheckpointError, ConfigError
from hubless.net.crdt import deltas, persistence
from hubless.net.crdt.chain import Op
from hubless.net.crdt.persistence import Journal, title
from hubless.net.crdt.replica import Replica
from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity
from hubless.net.policy import Limits

ME, YOU, LIAR = (Identity.derived(8, i) for i in range(3))


def opened(folder, **options):
    """A replica of what a folder holds, and the journal that keeps it."""
    journal, replica = Journal(folder, "doc", ME.peer_id, **options), Replica("doc")
    for ops in journal.read():
        replica.take(tuple(op.believe() for op in ops))
    replica.keep = journal.keep
    return replica, journal


def filled(folder, writes=3):
    """A log with operations of three actors and evidence; the replica that wrote it."""
    replica, journal = opened(folder)
    other, twin = Replica("doc"), Replica("doc")
    for n in range(writes):
        replica.write(ME, deltas.Tally("n", n + 1, 0))
        replica.offer(other.write(YOU, deltas.Put("m", str(n), "é")))
    replica.offer(other.write(LIAR, deltas.Grow("g", 1)))
    replica.offer(twin.write(LIAR, deltas.Grow("g", 2)))
    replica.write(ME, deltas.Add("s", "last", {}))
    journal.close()
    return replica


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


def test_a_document_is_there_again(tmp_path):
    written = filled(tmp_path / "deep" / "doc")
    again, journal = opened(tmp_path / "deep" / "doc")
    journal.close()
    assert again.canonical() == written.canonical()
    assert again.standing() == written.standing()


def test_a_log_that_was_cut_at_any_byte_loses_only_what_was_cut(tmp_path, quick):
    whole = filled(tmp_path)
    data, start = (tmp_path / "log").read_bytes(), len(title("doc", ME.peer_id))
    ends = [start, *(end for _, end in persistence.frames(data, start))]
    folder, before = tmp_path / "cut", -1
    for at in range(len(data) + 1):
        folder.mkdir(exist_ok=True)
        (folder / "log").write_bytes(data[:at])
        replica, journal = opened(folder)
        kept = sum(end <= at for end in ends[1:])
        assert journal.cut == (at - ends[kept] if at >= start else at)
        own = list(replica.chains.get(ME.peer_id, []))
        if kept != before:
            before = kept
            assert [op.hash for op in own] == [op.hash for op in whole.chains[ME.peer_id][: len(own)]]
            assert sum(map(len, replica.chains.values())) >= kept - 2
        if at % 20 == 0 or at in ends:
            op = replica.write(ME, deltas.Tally("n", 99, 0))
            assert op.seq == len(own)
            journal.close()
            replica, journal = opened(folder)
            assert journal.cut == 0
            assert replica.chains[ME.peer_id][-1].hash == op.hash
        journal.close()
    assert before == len(ends) - 1


def test_damage_that_no_crash_leaves_is_not_cut_away(tmp_path):
    filled(tmp_path)
    log = tmp_path / "log"
    data = log.read_bytes()
    middle = len(data) // 2
    log.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(CheckpointError, match="not at its end"):
        opened(tmp_path)
    log.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    replica, journal = opened(tmp_path)
    journal.close()
    assert replica.state("set", "s").value() == [], "the last record alone may be torn"
    log.write_bytes(b"something else entirely, and rather long so that it is no beginning" * 3)
    with pytest.raises(CheckpointError, match="begin"):
        opened(tmp_path)


def test_a_snapshot_is_replaced_as_a_whole(tmp_path, monkeypatch):
    whole = filled(tmp_path)
    replica, journal = opened(tmp_path)
    data = persistence.written("doc", ME.peer_id, replica.kept())

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    log = (tmp_path / "log").read_bytes()
    for name in ("fsync", "replace", "ftruncate"):  # killed before the next step of it
        with monkeypatch.context() as patch:
            patch.setattr(persistence.Path if name == "replace" else os, name, killed)
            with pytest.raises(Killed):
                journal.snapshot(data)
        assert (tmp_path / "log").read_bytes() == log
        os.close(journal._file)
        journal._file = -1
        replica, journal = opened(tmp_path)
        assert replica.canonical() == whole.canonical(), f"killed before {name}"
    journal.snapshot(data)
    assert (tmp_path / "log").read_bytes() == title("doc", ME.peer_id)
    replica.write(ME, deltas.Grow("g", 5))
    journal.close()
    again, journal = opened(tmp_path)
    journal.close()
    assert again.canonical() == replica.canonical()
    (tmp_path / "snapshot").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="not whole"):
        opened(tmp_path)


def test_a_folder_is_of_one_document_one_actor_and_one_process(tmp_path):
    journal = Journal(tmp_path, "doc", ME.peer_id)
    with pytest.raises(ConfigError, match="a process uses it"):
        Journal(tmp_path, "doc", ME.peer_id)
    journal.close()
    with pytest.raises(ConfigError, match="holds 'doc' of"):
        Journal(tmp_path, "other", ME.peer_id)
    with pytest.raises(ConfigError, match="holds 'doc' of"):
        Journal(tmp_path, "doc", YOU.peer_id)
    with pytest.raises(ConfigError, match="sync = 'never'"):
        Journal(tmp_path, "doc", ME.peer_id, sync="never")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="folder = "):
        Journal(tmp_path / "file", "doc", ME.peer_id)


def test_what_cannot_be_written_leaves_no_half_of_it(tmp_path, monkeypatch):
    replica, journal = opened(tmp_path)
    replica.write(ME, deltas.Tally("n", 1, 0))
    real = os.write

    def full(file, data):
        if len(data) > 20:
            return real(file, data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="space"):
            replica.write(ME, deltas.Tally("n", 2, 0))
    replica.write(ME, deltas.Tally("n", 3, 0))
    journal.close()
    again, journal = opened(tmp_path)
    journal.close()
    assert (journal.cut, again.state("counter", "n").value()) == (0, 3)
    assert again.canonical() == replica.canonical()


def test_own_operations_are_on_disk_before_they_leave(on_bench, tmp_path, monkeypatch):
    async def body(bench):
        one, two = bench.stores
        one.incr("n")
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "flush", lambda self: (_ for _ in ()).throw(OSError("the disk is gone")))
            with pytest.raises(OSError, match="gone"):
                await one.exchange(two.net.peer_id)
            two.counts.clear()
        assert two.value("n") is None
        synced = []
        monkeypatch.setattr(os, "fsync", synced.append)
        for _ in range(50):
            one.incr("n")
        await one.exchange(two.net.peer_id)
        assert two.value("n") == 51
        assert len(synced) == 1, "many at a time; those of others need not be"

    def make(net, **options):
        return CrdtStore(net, "doc", lambda: [net.peer_id, *made], folder=tmp_path / net.peer_id[:8], **options)

    made = [Identity.derived(5, i).peer_id for i in range(2)]
    on_bench(body, 2, make=make)


def test_each_write_is_on_disk_where_that_was_asked_for(on_bench, tmp_path, monkeypatch):
    async def body(bench):
        synced = []
        monkeypatch.setattr(os, "fsync", synced.append)
        for _ in range(3):
            bench.stores[0].incr("n")
        assert len(synced) == 3

    on_bench(body, 1, folder=tmp_path, sync="always")


def test_a_store_goes_on_where_it_was_whoever_is_a_member_now(on_bench, tmp_path):
    async def fill(bench):
        one, two = bench.stores
        two.add("s", "of two")
        for n in range(300):
            one.set("m", "k", n)
        await one.exchange(two.net.peer_id)
        assert (folders[0] / "snapshot").exists(), "a long log became a snapshot"
        return one.canonical()

    async def again(bench):
        one = bench.stores[0]
        assert one.canonical() == before
        one.incr("n")
        assert one.lengths()[one.net.peer_id] == 301

    def make(net, **options):
        folders.append(tmp_path / net.peer_id[:8])
        return CrdtStore(net, "doc", lambda: members, folder=folders[-1], **options)

    folders, members = [], [Identity.derived(5, i).peer_id for i in range(2)]
    limits = Limits(journal=20_000)
    before = on_bench(fill, 2, make=make, limits=limits)
    members.clear()
    on_bench(again, 1, make=make, limits=limits)


WRITER = """
import os, sys
from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Limits
from hubless.net.transports.sim import SimTransport, SimWorld, run_sim

async def main():
    world, people = SimWorld(0), [Identity.derived(8, i) for i in range(2)]
    nets = [await Network(SimTransport(world, i.peer_id), i, limits=Limits(journal=30_000)).start() for i in people]
    members = lambda: [i.peer_id for i in people]
    mine = CrdtStore(nets[0], "doc", members, every=0, folder=sys.argv[1])
    other = CrdtStore(nets[1], "doc", members, every=0)
    await other.exchange(nets[0].peer_id)
    print("ready", flush=True)
    while True:
        mine.incr("n")
        os.write(1, b"%d\\n" % mine.lengths()[nets[0].peer_id])
        if mine.lengths()[nets[0].peer_id] % 20 == 0:
            other.add("s", mine.value("n"))
            await mine.exchange(nets[1].peer_id)

run_sim(main())
"""


def test_a_process_killed_at_any_moment_loses_nothing_and_signs_no_seq_twice(tmp_path):
    random, said, hashes = Random(3), 0, []
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout.readline() == b"ready\n"
            before = [writer.stdout.readline() for _ in range(random.randrange(60))]  # the moment is the test
            writer.send_signal(signal.SIGKILL)
            lines = [*(line.rstrip(b"\n") for line in before), *writer.stdout.read().split(b"\n")]
        said = max([said, *(int(line) for line in lines[:-1])])
        replica, journal = opened(tmp_path)
        journal.close()
        chain = replica.chains.get(ME.peer_id, [])
        assert len(chain) in (said, said + 1), "what was said to be written is there"
        assert [op.hash for op in chain[: len(hashes)]] == hashes, "and no seq was signed again"
        assert replica.state("counter", "n").value() == len(chain)
        assert not replica.evidence
        assert all(Op(*op.pair()).holds() for op in chain[-20:])
        hashes = [op.hash for op in chain]
    assert said > 20
