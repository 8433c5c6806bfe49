"""What every room uses: errors, the registry, seeds, files, finished pieces, progress, jobs."""
