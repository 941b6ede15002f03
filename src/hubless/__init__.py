"""hubless: AI with no hub. Populations of peers that learn and coordinate without a central server."""

__version__ = "0.4.0"
