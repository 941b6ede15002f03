import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import CodecError, ConfigError, RecordRefused
from hubless.net.crdt import deltas
from hubless.net.crdt.chain import FIRST, LATEST, Op, proof
from hubless.net.identity import RECORD, Identity
from hubless.net.policy import LIMITS

ME, YOU = Identity.derived(6, 0), Identity.derived(6, 1)


def op(seq=0, prev=FIRST, delta=None, by=ME, doc="doc", lamport=1):
    return Op.signed(by, doc, seq, lamport, delta or deltas.Tally("n", seq + 1, 0), prev)


def said(**changes):
    fields = {"doc": "doc", "actor": ME.public, "seq": 0, "lamport": 1, "delta": ["tally", "n", 1, 0], "prev": FIRST}
    return msgspec.msgpack.encode(list((fields | changes).values()))


def test_an_operation_is_its_signed_bytes():
    made = op(3, bytes(range(32)), deltas.Add("s", {"b": [1], "a": None}, {YOU.public: [4, 7]}))
    again = Op(*made.pair())
    assert again.holds()
    assert (again.actor, again.seq, again.prev, again.hash) == (ME.peer_id, 3, bytes(range(32)), made.hash)
    assert again.delta.value() == [{"a": None, "b": [1]}]
    assert again.delta.gone == {(YOU.peer_id, 4), (YOU.peer_id, 7)}
    assert Op.read(*made.pair()) is made, "replicas in one process share it"


def test_a_signature_of_another_or_for_another_purpose_does_not_hold():
    made = op()
    assert not Op(made.body, YOU.sign(b"hubless/1/op", made.body)).holds()
    assert not Op(made.body, ME.sign(RECORD, made.body)).holds()
    assert not Op(said(lamport=2), made.signature).holds()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        said() + b"\x00",
        said()[:-1],
        said(seq=-1),
        said(seq=LIMITS.ops),
        said(lamport=LATEST + 1),
        said(actor=b"short"),
        said(prev=b""),
        said(doc=3),
        said(delta=["tally", "n", -1, 0]),
        said(delta=["tally", "n", 2**63, 0]),
        said(delta=["tally", "", 1, 0]),
        said(delta=["tally", "x" * (LIMITS.name + 1), 1, 0]),
        said(delta=["tally", "n", 1, 0, 0]),
        said(delta=["elsewhere", "n", 1]),
        said(delta=["put", "m", 3, 1]),
        said(delta=["put", "m", "k", {1: 2}]),
        said(delta=["add", "s", 1, {b"short": [1]}]),
        said(delta=["add", "s", msgspec.msgpack.Ext(5, b"x"), {}]),
        said(delta=["add", "s", 1, {ME.public: [-1]}]),
        said(delta=["add", "s", msgspec.Raw(b"\x91" * 60_000 + b"\xc0"), {}]),
        said(delta=["add", "s", msgspec.Raw(b"\xa1\xff"), {}]),
        said(delta=["add", "s", msgspec.Raw(b"\xd6\xff\x00\x00\x00\x00"), {}]),
    ],
)
def test_bytes_that_are_no_operation_are_refused(body):
    with pytest.raises(CodecError):
        Op(body, bytes(64))


@given(st.binary(max_size=80), st.integers(0, 200))
def test_damaged_bytes_raise_nothing_else(junk, at):
    whole = op(1, delta=deltas.Put("m", "k", ["v", 2.5])).body
    for body in (junk, whole[:at], whole[:at] + junk + whole[at + len(junk) :]):
        try:
            read = Op(body, bytes(64))
        except CodecError:
            continue
        assert not read.holds()


def test_what_cannot_be_signed_is_said():
    with pytest.raises(RecordRefused, match=str(LIMITS.op)):
        op(delta=deltas.Put("m", "k", b"x" * LIMITS.op))
    with pytest.raises(ConfigError, match="doc"):
        op(delta=deltas.Put("m", 7, 1))
    with pytest.raises(ConfigError):
        op(delta=deltas.Put("m", "k", 2**70))


def test_two_operations_prove_two_stories():
    first, other = op(), op(delta=deltas.Grow("n", 9))
    second = op(1, first.hash)
    assert proof(first, other) == 0
    assert proof(other, second) == 1, "it names another as the one before it"
    assert proof(first, second) is None
    assert proof(first, first) is None
    assert proof(first, op(2, second.hash)) is None, "what lies between may join them"
    assert proof(first, op(by=YOU)) is None
    assert proof(first, op(doc="another")) is None
