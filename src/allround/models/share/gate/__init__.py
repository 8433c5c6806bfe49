"""Gates: what weighs the modules of a bank for a task, a row or a token, a file each."""
