"""How often each task is drawn, one file each."""
