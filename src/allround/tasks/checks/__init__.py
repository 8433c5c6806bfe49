"""Checks of a task's rows: what a user should know before anything is trained."""
