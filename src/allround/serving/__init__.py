"""A model behind HTTP: all tasks from one encoder pass, a page to try it, and a safe way to replace it."""
