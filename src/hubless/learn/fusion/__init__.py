"""Experts made one: of one base by their weights, of other vocabularies by their predictions."""
