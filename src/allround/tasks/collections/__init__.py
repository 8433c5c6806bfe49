"""Collections of tasks that others wrote down: how each is read."""
