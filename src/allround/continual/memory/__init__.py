"""Ways to choose the rows that a memory keeps."""
