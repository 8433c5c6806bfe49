"""One model stored once, and of each task only a small residual: what takes the model to that task's specialist."""
