"""What came of shrinking a model: sizes, scores beside the original's, and a report."""
