"""Small networks of our own, and what is done to models."""
