"""Ways to tell which part of a grown system a row is for."""
