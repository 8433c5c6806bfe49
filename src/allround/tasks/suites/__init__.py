"""Built-in suites, one file each."""
