"""Secure aggregation: sums of messages that mean nothing one by one."""
