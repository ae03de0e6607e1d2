"""What a run leaves: records, their store's locks, and the arrays of a training."""
