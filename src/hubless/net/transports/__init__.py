"""Ways for frames to get from peer to peer: simulated on a virtual clock, TCP with TLS 1.3, libp2p, lattica."""
