"""Tasks that come one after another: streams of them, and strategies that learn without losing what they knew."""
