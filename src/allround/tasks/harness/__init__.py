"""Tasks of the lm-evaluation-harness: found, made into tasks of ours, and scored by their own metrics."""
