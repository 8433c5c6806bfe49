"""What a task is: definitions, kinds, metrics, sources of data, suites."""
