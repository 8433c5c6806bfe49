"""Ways to choose what is removed from a network, one file each."""
