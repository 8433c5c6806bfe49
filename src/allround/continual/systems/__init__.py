"""Systems that grow with a stream."""
