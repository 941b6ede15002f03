"""Peer ids as libp2p writes them."""

from hubless.net.transports import libp2p_names
from hubless.net.transports.libp2p_names import base58_id


def test_a_peer_id_is_that_of_libp2p():
    # the key of RFC 8032's first test; the id as base58 of 00 24 08 01 12 20 and the key
    peer = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    digits = base58_id(peer)
    assert digits.startswith("12D3KooW")
    number = 0
    for digit in digits:
        number = number * 58 + libp2p_names.BASE58.index(digit)
    assert number.to_bytes(38, "big").hex() == "002408011220" + peer
