"""Parts of language models: prompts as tokens, answers as trees of tokens, packing, log-probabilities, writing."""
