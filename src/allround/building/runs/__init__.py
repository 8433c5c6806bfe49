"""Run folders afterwards: what lies in them, reports made again, disk space given back, two runs compared."""
