"""Learning outside the simulator: one peer in one process, over a real transport, with the same parts."""
