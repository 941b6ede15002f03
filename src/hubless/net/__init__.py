"""Who talks to whom, with what weight, over which links, and what goes wrong."""
