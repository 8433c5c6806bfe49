"""What is learned in a merge: one file each."""
