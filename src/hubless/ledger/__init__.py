"""Ledgers: engines that keep records so that nobody can change them unseen, behind one interface."""
