"""Learning systems: optimisation, topology, personalisation, robustness."""
