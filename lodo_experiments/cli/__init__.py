"""The commands: run, execute, status, device and batch."""
