"""What finds the nearest of many vectors: each file is an index."""
