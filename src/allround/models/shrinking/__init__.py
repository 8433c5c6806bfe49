"""What can be removed from a network, what each part is worth to each task, and removing it."""
