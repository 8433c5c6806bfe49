"""How much each task weighs in a step, one file each."""
