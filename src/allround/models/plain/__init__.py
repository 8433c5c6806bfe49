"""Plain numbers of rows, such as counts of words, and linear models on them: what a network has to beat."""
