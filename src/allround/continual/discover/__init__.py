"""Ways to find novel classes."""
