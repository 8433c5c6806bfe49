"""Ways to choose the worked examples that a language model is shown before a question."""
