"""Who a peer is: an Ed25519 key pair. The public key is the id, so a signature needs no directory to be checked."""

from __future__ import annotations

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hubless.errors import ConfigError, IntegrityError
from hubless.net.policy import LIMITS
from hubless.net.transports.transport import PeerId

# what a signature is for: one made for a record cannot pass as one of a frame
ENVELOPE, PUB, RECORD, OP = b"hubless/1/envelope", b"hubless/1/pub", b"hubless/1/record", b"hubless/1/op"
SEAL, AGREED, DRAWN = b"hubless/1/seal", b"hubless/1/agreed", b"hubless/1/drawn"
SEED = KEY = 32
SIGNATURE = 64
TAG = 16  # bytes by which ChaCha20-Poly1305 lengthens what it encrypts
ONCE = bytes(12)  # the nonce of a key that encrypts one message
FIELD = 2**255 - 19  # of Curve25519, which both kinds of key live on


class Identity:
    """A key pair, made from 32 secret bytes; without any, from the operating system's randomness."""

    def __init__(self, seed: bytes | None = None) -> None:
        seed = os.urandom(SEED) if seed is None else bytes(seed)
        if len(seed) != SEED:
            raise ConfigError(f"identity.seed = {len(seed)} bytes: must be {SEED}")
        self._seed = seed
        self.key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self.key.public_key().public_bytes_raw()
        self.peer_id: PeerId = self.public.hex()

    def __repr__(self) -> str:
        return f"Identity({self.peer_id[:8]})"

    @classmethod
    def derived(cls, seed: int, i: int) -> Identity:
        """The ``i``-th identity of a simulation: the same in every run, and a secret from nobody."""
        return cls(hashlib.sha256(f"hubless simulation {seed} {i}".encode()).digest())

    @classmethod
    def load(cls, path: str | Path) -> Identity:
        """Read a key file: 64 hex digits that only its owner may read. Raises ConfigError."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(4 * SEED)
        except OSError as error:
            raise ConfigError(f"key file = {path}: {error.strerror or error}") from None
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise ConfigError(
                f"key file = {path}: others may read or write it (mode {stat.S_IMODE(mode):03o}); chmod 600 it"
            )
        try:
            return cls(bytes.fromhex(text.decode("ascii").strip()))
        except ValueError:  # ConfigError is one too: nothing of the file may show in the message
            raise ConfigError(f"key file = {path}: must hold {2 * SEED} hex digits") from None

    def save(self, path: str | Path) -> None:
        """Write a new key file that only its owner may read. Raises ConfigError; never overwrites a key."""
        path = Path(path)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise ConfigError(f"key file = {path}: {error.strerror or error}") from None
        with os.fdopen(handle, "wb") as file:
            file.write(self._seed.hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def at(cls, path: str | Path) -> Identity:
        """The identity of a key file, which is made if there is none."""
        if not Path(path).exists():
            cls().save(path)
        return cls.load(path)

    def sign(self, tag: bytes, data: bytes) -> bytes:
        """A signature [64 bytes] of ``data``, good for the purpose ``tag`` alone."""
        return self.key.sign(_said(tag, data))

    def open(self, box: bytes) -> bytes:
        """What somebody sealed to this identity. Raises IntegrityError."""
        if len(box) < KEY + TAG:
            raise IntegrityError(f"a box of {len(box)} bytes: the least is {KEY + TAG}")
        ephemeral, own = box[:KEY], exchange_key(self.peer_id)
        secret = X25519PrivateKey.from_private_bytes(exchange_secret(self._seed))
        try:
            shared = secret.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            return ChaCha20Poly1305(_box_key(shared, ephemeral, own)).decrypt(ONCE, box[KEY:], None)
        except (InvalidTag, ValueError):  # ValueError: an ephemeral key of small order
            raise IntegrityError(f"a box that was not sealed to {self.peer_id[:8]}, or was changed") from None

    def agree(self, peer: PeerId, purpose: bytes) -> bytes:
        """A secret [32] that this identity and another have alike, and nobody else. Raises IntegrityError."""
        secret = X25519PrivateKey.from_private_bytes(exchange_secret(self._seed))
        try:
            shared = secret.exchange(X25519PublicKey.from_public_bytes(exchange_key(peer)))
        except ValueError:
            raise IntegrityError(f"peer {peer[:8]}: a key of small order keeps no secret") from None
        ends = b"".join(sorted(bytes.fromhex(one) for one in (self.peer_id, peer)))
        return HKDF(hashes.SHA256(), 32, salt=ends, info=AGREED + b"\0" + purpose).derive(shared)

    def draw(self, purpose: bytes) -> bytes:
        """A secret [32] of this identity alone, the same whenever it is drawn for the purpose."""
        return HKDF(hashes.SHA256(), 32, salt=None, info=DRAWN + b"\0" + purpose).derive(self._seed)


def verify(peer: PeerId, tag: bytes, data: bytes, signature: bytes) -> bool:
    """Whether ``peer`` signed ``data`` for the purpose ``tag``; False for whatever is malformed.

    What held once is remembered: checking takes 58 us, remembering 1 us.
    """
    try:
        return _holds(peer, _said(tag, data), bytes(signature))
    except (InvalidSignature, ValueError, TypeError):
        return False


def seal(peer: PeerId, data: bytes, *, ephemeral: bytes | None = None) -> bytes:
    """A box that only ``peer`` can open: an ephemeral public key [32], then ChaCha20-Poly1305 with a tag [16].

    It does not say who sealed it; sign what is inside. ``ephemeral`` [32] is a secret for this one box: a simulation
    gives its own to repeat itself. Raises IntegrityError for an id that is no key.
    """
    recipient = exchange_key(peer)
    secret = X25519PrivateKey.generate() if ephemeral is None else X25519PrivateKey.from_private_bytes(ephemeral)
    public = secret.public_key().public_bytes_raw()
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(recipient))
    except ValueError:
        raise IntegrityError(f"peer {peer[:8]}: a key of small order keeps no secret") from None
    return public + ChaCha20Poly1305(_box_key(shared, public, recipient)).encrypt(ONCE, data, None)


def is_peer_id(text: str) -> bool:
    """Whether a text has the form of a peer id: 64 lower-case hex digits."""
    return len(text) == 2 * KEY and not set(text) - set("0123456789abcdef")


def read_allowed(path: str | Path) -> frozenset[PeerId]:
    """Peers from a file with one id a line; ``#`` starts a comment. Raises ConfigError, with the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"allow = {path}: {getattr(error, 'strerror', None) or 'not a text file'}") from None
    peers = []
    for number, line in enumerate(lines, 1):
        if peer := line.partition("#")[0].strip():
            if not is_peer_id(peer):
                raise ConfigError(f"allow = {path}, line {number}: must be a peer id, {2 * KEY} lower-case hex digits")
            peers.append(peer)
    return frozenset(peers)


@lru_cache(maxsize=4096)
def exchange_key(peer: PeerId) -> bytes:
    """The X25519 public key [32] of an Ed25519 one: u = (1 + y) / (1 - y) (RFC 7748, section 4.1).

    Raises IntegrityError for an id that is no key.
    """
    if not is_peer_id(peer):
        raise IntegrityError(f"peer {peer[:8]!r}: an id has {2 * KEY} lower-case hex digits")
    y = int.from_bytes(bytes.fromhex(peer), "little") & ((1 << 255) - 1)  # the top bit is the sign of x
    if y in (0, 1) or y >= FIELD - 1:
        raise IntegrityError(f"peer {peer[:8]}: not the key of anybody")
    return ((1 + y) * pow(1 - y, -1, FIELD) % FIELD).to_bytes(KEY, "little")


def exchange_secret(seed: bytes) -> bytes:
    """The X25519 secret [32] of an Ed25519 seed: from the hash that Ed25519 takes its own from (RFC 8032, 5.1.5)."""
    return hashlib.sha512(seed).digest()[:32]


def _said(tag: bytes, data: bytes) -> bytes:
    """What is signed: the purpose and a digest. Ed25519 reads its message twice; large data is hashed once instead."""
    if b"\0" in tag:
        raise ValueError(f"tag = {tag!r}: must have no zero byte")
    return tag + b"\0" + hashlib.sha256(data).digest()


def _box_key(shared: bytes, ephemeral: bytes, recipient: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=ephemeral + recipient, info=SEAL).derive(shared)


@lru_cache(maxsize=4096)
def _public(peer: PeerId) -> Ed25519PublicKey:
    if not is_peer_id(peer):  # two spellings of one id would be two peers
        raise ValueError("not a peer id")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(peer))


@lru_cache(maxsize=LIMITS.verified)
def _holds(peer: PeerId, said: bytes, signature: bytes) -> bool:
    _public(peer).verify(signature, said)  # raises, and what raises is not remembered
    return True
