"""One encoder and a head per task: building, loading, saving, predicting."""
