"""The page of a suite's data: what was found about it, with pictures of labels and lengths."""
