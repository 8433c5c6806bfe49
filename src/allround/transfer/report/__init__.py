"""Relations between tasks for people: in words, tables, pictures, and as a page."""
