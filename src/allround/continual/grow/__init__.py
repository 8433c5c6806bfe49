"""Ways to grow when something arrives: what a strategy learns with."""
