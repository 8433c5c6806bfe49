"""What a system answered, how good that is, and how sure one can be: predictions, scoreboard, report."""
