"""Flow matching: experts on parts of the data, collected in the end and joined by a router."""
