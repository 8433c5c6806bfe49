"""Answers to rows of tables and files: all tasks in one pass, rows some at a time, no row lost."""
