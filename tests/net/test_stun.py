import socket
import struct
import threading

import pytest

from hubless.errors import PeerUnreachable
from hubless.net import stun


class Server:
    """A STUN server on loopback that says what it is told to, in one datagram a request or several."""

    def __init__(self, *answers):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.answers = answers
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        request, sender = self.sock.recvfrom(2048)
        for make in self.answers:
            self.sock.sendto(make(request, sender), sender)

    def __enter__(self):
        self.thread.start()
        return self.sock.getsockname()

    def __exit__(self, *_):
        self.thread.join()
        self.sock.close()


def answer(host, port, *, xor=True, ticket=None, before=b""):
    def make(request, sender):
        number = struct.unpack("!I", socket.inet_aton(host))[0]
        name, shown, where = (0x20, port ^ 0x2112, number ^ stun.COOKIE) if xor else (0x01, port, number)
        body = before + struct.pack("!HHBBHI", name, 8, 0, 1, shown, where)
        return struct.pack("!HHI", 0x0101, len(body), stun.COOKIE) + (ticket or request[8:20]) + body

    return make


@pytest.fixture
def sock():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.mark.parametrize("xor", [True, False])
def test_the_address_that_a_server_saw(sock, xor):
    other = struct.pack("!HH3sx", 0x8022, 3, b"hub")  # an attribute that nobody asked for, padded
    with Server(answer("203.0.113.7", 40000, xor=xor, before=other)) as server:
        assert stun.mapped(sock, server, 5.0) == ("203.0.113.7", 40000)


def test_what_is_no_answer_to_this_request_is_passed_over(sock):
    junk = [lambda *_: b"", lambda *_: b"\x01\x01" * 30, answer("198.51.100.1", 1, ticket=b"x" * 12)]
    with Server(*junk, answer("203.0.113.7", 40000)) as server:
        assert stun.mapped(sock, server, 5.0) == ("203.0.113.7", 40000)


def test_silence_is_an_error(sock):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(PeerUnreachable, match="no answer from 127"):
            stun.mapped(sock, silent.getsockname(), 0.03)


def test_two_answers_tell_the_kind():
    a, b, own = ("203.0.113.7", 1), ("203.0.113.7", 2), ("10.0.0.2", 1)
    assert stun.kind(a, a, a).startswith("none")
    assert stun.kind(a, a, own).startswith("cone")
    assert stun.kind(a, b, own).startswith("symmetric")
