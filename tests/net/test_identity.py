"""Signatures hold for one peer, purpose and text; boxes open for one peer; key files are read by their owner alone."""

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import ConfigError, IntegrityError
from hubless.net import identity
from hubless.net.identity import ENVELOPE, OP, PUB, RECORD, Identity, read_allowed, seal, verify

SEEDS = st.binary(min_size=32, max_size=32)
DATA = st.binary(max_size=200)
ANNA, BORA = Identity.derived(0, 0), Identity.derived(0, 1)


@given(SEEDS, st.sampled_from([ENVELOPE, PUB, RECORD, OP]), DATA, st.integers(0, 511))
def test_a_signature_holds_for_one_peer_purpose_and_text(seed, tag, data, bit):
    who = Identity(seed)
    signature = who.sign(tag, data)
    assert len(signature) == identity.SIGNATURE
    assert verify(who.peer_id, tag, data, signature)
    assert verify(who.peer_id, tag, data, signature), "from memory"
    assert not any(verify(who.peer_id, other, data, signature) for other in (ENVELOPE, PUB, RECORD, OP) if other != tag)
    assert not verify(ANNA.peer_id, tag, data, signature)
    assert not verify(who.peer_id, tag, data + b"\0", signature)
    flipped = bytearray(signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not verify(who.peer_id, tag, data, bytes(flipped))


@pytest.mark.parametrize("peer", ["", "zz" * 32, "00" * 32, ANNA.peer_id.upper(), ANNA.peer_id[:-2], "é" * 64])
@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65)])
def test_what_is_malformed_is_false(peer, signature):
    assert not verify(peer, OP, b"x", signature)


def test_a_purpose_cannot_swallow_the_text():
    signature = ANNA.sign(b"a", b"bc")
    assert not verify(ANNA.peer_id, b"ab", b"c", signature)
    with pytest.raises(ValueError, match="zero byte"):
        ANNA.sign(b"a\0", b"")


def test_what_held_is_remembered_and_what_did_not_is_not():
    identity._holds.cache_clear()
    signature = ANNA.sign(OP, b"x")
    for _ in range(3):
        assert verify(ANNA.peer_id, OP, b"x", signature)
        assert not verify(ANNA.peer_id, OP, b"y", signature)
    seen = identity._holds.cache_info()
    assert (seen.hits, seen.currsize, seen.maxsize) == (2, 1, 65_536)


@given(SEEDS)
def test_the_id_becomes_the_exchange_key_of_its_secret(seed):
    secret = X25519PrivateKey.from_private_bytes(identity.exchange_secret(seed))
    assert identity.exchange_key(Identity(seed).peer_id) == secret.public_key().public_bytes_raw()


def test_the_conversion_is_that_of_libsodium():
    # its test ed25519_convert; the secret there is clamped
    seed = bytes.fromhex("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee")
    secret = bytearray(identity.exchange_secret(seed))
    secret[0] &= 248
    secret[31] = secret[31] & 127 | 64
    assert secret.hex() == "8052030376d47112be7f73ed7a019293dd12ad910b654455798b4667d73de166"
    public = identity.exchange_key(Identity(seed).peer_id)
    assert public.hex() == "f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50"


@given(SEEDS, DATA, st.data())
def test_a_box_opens_for_one_peer_and_only_unchanged(seed, data, draw):
    who = Identity(seed)
    box = seal(who.peer_id, data)
    assert who.open(box) == data
    assert len(box) == len(data) + 48
    with pytest.raises(IntegrityError, match="not sealed to"):
        ANNA.open(box)
    changed = bytearray(box)
    changed[draw.draw(st.integers(0, len(box) - 1))] ^= 1
    with pytest.raises(IntegrityError):
        who.open(bytes(changed))
    with pytest.raises(IntegrityError):
        who.open(box[: draw.draw(st.integers(0, len(box) - 1))])


def test_a_box_says_nothing_twice_unless_a_simulation_asks():
    assert seal(ANNA.peer_id, b"x") != seal(ANNA.peer_id, b"x")
    assert seal(ANNA.peer_id, b"x", ephemeral=bytes(range(32))) == seal(ANNA.peer_id, b"x", ephemeral=bytes(range(32)))
    assert ANNA.open(seal(ANNA.peer_id, b"x", ephemeral=bytes(range(32)))) == b"x"


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "no key",
        "00" * 32,  # y = 0, 1, -1 and past the field: points of small order and second spellings
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ff" * 32,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # of order 8
    ],
)
def test_nothing_is_sealed_to_an_id_that_is_no_key(peer):
    with pytest.raises(IntegrityError):
        seal(peer, b"x")
    with pytest.raises(IntegrityError):
        ANNA.open(b"\0" * 32 + b"x" * 16)


def test_identities_of_a_simulation_repeat_and_differ():
    assert Identity.derived(3, 4).peer_id == Identity.derived(3, 4).peer_id
    assert len({Identity.derived(seed, i).peer_id for seed in range(4) for i in range(4)}) == 16
    assert Identity().peer_id != Identity().peer_id
    with pytest.raises(ConfigError, match="31 bytes: must be 32"):
        Identity(bytes(31))
    assert repr(ANNA) == f"Identity({ANNA.peer_id[:8]})"


def test_a_key_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "key"
    who = Identity.at(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.at(path).peer_id == Identity.load(path).peer_id == who.peer_id
    with pytest.raises(ConfigError, match="File exists"):
        Identity().save(path)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=rf"others may read or write it \(mode {mode:o}\); chmod 600 it"):
            Identity.load(path)


@pytest.mark.parametrize("text", [b"", b"abc", b"00" * 31, b"00" * 33, b"\xff" * 64, b"zz" * 32])
def test_a_key_file_that_holds_no_key_says_so_and_not_what_it_holds(tmp_path, text):
    path = tmp_path / "key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="must hold 64 hex digits"):
        Identity.load(path)


def test_a_key_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Identity.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="No such file"):
        Identity().save(tmp_path / "none" / "key")


def test_an_allow_list_is_one_id_a_line(tmp_path):
    path = tmp_path / "peers"
    path.write_text(f"# ours\n\n{ANNA.peer_id}  # Anna\n  {BORA.peer_id}\n{ANNA.peer_id}\n")
    assert read_allowed(path) == {ANNA.peer_id, BORA.peer_id}
    path.write_text(f"{ANNA.peer_id}\n{ANNA.peer_id.upper()}\n")
    with pytest.raises(ConfigError, match="line 2: must be a peer id"):
        read_allowed(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        read_allowed(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_allowed(tmp_path / "none")
