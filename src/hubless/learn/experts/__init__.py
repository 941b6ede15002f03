"""A mixture's experts with owners: who trains which, and how alike ones learn from each other."""
