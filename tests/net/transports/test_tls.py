"""Both sides of a handshake prove their peer id, and nothing but that gets through. In memory: no socket is opened."""

import datetime
import hashlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from hubless.errors import IntegrityError
from hubless.net.identity import Identity
from hubless.net.transports import tls
from hubless.net.transports.tls import BULK, MAIN, Contexts, proven

ANNA, BORA = Identity.derived(0, 0), Identity.derived(0, 1)


@pytest.fixture(scope="module")
def anna():
    return Contexts.of(ANNA)


@pytest.fixture(scope="module")
def bora():
    return Contexts.of(BORA)


def shake(client, server):
    """Both ends of a finished handshake; raises what the server raises, or else the client."""
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(one, two), server.wrap_bio(two, one, server_side=True)
    for _ in range(4):
        for end in reversed(ends):
            try:
                end.do_handshake()
                end.read(1)  # a refused client learns of it when it first reads
            except ssl.SSLWantReadError:
                pass
    return ends


def certificate(key, *, issuer=tls._NAME, signer=tls.OPEN_KEY, name="x"):
    algorithm = None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA256()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2120, 1, 1))
        .sign(signer, algorithm)
    )


def client(tmp_path, shown=None, key=None, *, lanes=(MAIN,), version=None):
    """A client that need not play by the rules."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.maximum_version = version
    if lanes:
        context.set_alpn_protocols(list(lanes))
    if shown is not None:
        path = tmp_path / "shown.pem"
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(shown.public_bytes(serialization.Encoding.PEM) + secret)
        context.load_cert_chain(path)
    return context


@pytest.mark.parametrize("lane", [MAIN, BULK])
def test_each_side_knows_the_other_and_the_lane(anna, bora, lane):
    dialler, dialled = shake(anna.clients[lane], bora.server)
    assert proven(dialler) == (BORA.peer_id, lane)
    assert proven(dialled) == (ANNA.peer_id, lane)
    assert dialled.version() == "TLSv1.3"


def test_a_client_without_a_certificate_is_refused(anna, tmp_path):
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(client(tmp_path), anna.server)


def test_older_tls_is_refused(anna, tmp_path):
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        shake(client(tmp_path, tls.leaf(BORA), BORA.key, version=ssl.TLSVersion.TLSv1_2), anna.server)


def test_a_certificate_that_the_open_authority_did_not_sign_is_refused(anna, tmp_path):
    own = Identity.derived(0, 7)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client(tmp_path, certificate(own.key, signer=own.key), own.key), anna.server)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(client(tmp_path, certificate(own.key, signer=own.key, issuer="x"), own.key), anna.server)


def test_a_server_that_the_open_authority_did_not_sign_is_refused(anna, tmp_path):
    own = Identity.derived(0, 7)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = tmp_path / "server.pem"
    secret = own.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate(own.key, signer=own.key).public_bytes(serialization.Encoding.PEM) + secret)
    server.load_cert_chain(path)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(anna.clients[MAIN], server)


def test_a_key_of_another_kind_is_nobody(anna, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    _, dialled = shake(client(tmp_path, certificate(key, name=ANNA.peer_id), key), anna.server)
    with pytest.raises(IntegrityError, match="key of another kind"):
        proven(dialled)


def test_the_name_in_a_certificate_is_believed_by_nobody(anna, tmp_path):
    _, dialled = shake(client(tmp_path, certificate(BORA.key, name=ANNA.peer_id), BORA.key), anna.server)
    assert proven(dialled)[0] == BORA.peer_id


def test_anothers_certificate_cannot_be_shown_without_its_key(tmp_path):
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        client(tmp_path, tls.leaf(ANNA), BORA.key)


@pytest.mark.parametrize("lanes", [(), ("http/1.1",)])
def test_another_protocol_is_refused(anna, tmp_path, lanes):
    _, dialled = shake(client(tmp_path, tls.leaf(BORA), BORA.key, lanes=lanes), anna.server)
    with pytest.raises(IntegrityError, match="a connection for no protocol"):
        proven(dialled)


def test_what_is_no_certificate_is_nobody():
    class Connection:
        def getpeercert(self, binary_form):
            return self.shown

        def selected_alpn_protocol(self):
            return MAIN

    for Connection.shown in (None, b"", b"junk", tls.leaf(ANNA).public_bytes(serialization.Encoding.DER)[:-3]):
        with pytest.raises(IntegrityError, match="cannot be read"):
            proven(Connection())


def test_the_system_is_not_trusted_and_no_key_file_stays(anna, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    contexts = Contexts.of(ANNA)
    assert not list(tmp_path.iterdir())
    for context in (contexts.server, *contexts.clients.values()):
        assert [dict(part[0] for part in ca["subject"])["commonName"] for ca in context.get_ca_certs()] == [tls._NAME]
        assert context.verify_mode == ssl.CERT_REQUIRED
    assert hashlib.sha256(b"hubless: this CA grants no trust").digest() == tls.OPEN_KEY.private_bytes_raw()
