"""Ways to group tasks for joint models."""
