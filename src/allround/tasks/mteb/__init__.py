"""Tasks of MTEB by their names in the package mteb, with its data and its main metrics."""
