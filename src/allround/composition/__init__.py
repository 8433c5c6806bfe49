"""Systems put together from parts: stores of residuals."""
