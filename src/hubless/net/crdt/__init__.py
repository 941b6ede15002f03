"""Documents that replicas change apart and that converge: delta CRDTs over signed hash chains."""
