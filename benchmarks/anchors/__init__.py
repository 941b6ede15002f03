"""One script a framework, each run by the Python of that framework's own virtual environment."""
