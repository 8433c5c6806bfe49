"""Ways to combine what modules give, a file each."""
