"""What a network offers above requests: publish and subscribe, Kademlia records, verified blobs, relays, heartbeats."""
