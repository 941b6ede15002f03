"""What a network offers above requests: publish and subscribe, Kademlia records, verified blobs, relays, heartbeats."""

import msgspec

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what decoding a stranger's bytes may raise
