"""Statistics of a model's data: computed once from a few rows, stored beside the model, used by merges."""
