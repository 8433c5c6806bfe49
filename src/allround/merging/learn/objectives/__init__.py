"""What a merge is learned by: one file each."""
