"""Networks of which little is tuned: a backbone that is trained once, and what an aggregator keeps beside its row."""
