"""Banks: the sorts of module that tasks share or have apart, a file each."""
