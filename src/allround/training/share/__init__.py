"""Ways to share: presets of what tasks have in common, a file each; each gives a plan of parts."""
