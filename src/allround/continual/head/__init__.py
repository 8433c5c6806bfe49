"""Ways to make the heads of tasks after an arrival."""
