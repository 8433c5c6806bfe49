"""Terms of training, one file each."""
