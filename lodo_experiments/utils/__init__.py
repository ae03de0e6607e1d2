"""What every room may use, and that knows nothing of experiments: files, processes, progress, time."""
