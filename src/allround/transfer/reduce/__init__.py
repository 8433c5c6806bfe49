"""Ways to choose the tasks that stand for a whole benchmark."""
