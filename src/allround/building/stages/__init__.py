"""The stages of a build: functions that take what was made before, and give what they made."""
