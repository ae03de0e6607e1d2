"""The training loop, its compiled steps, checkpoints, and the tuning of hyperparameters."""
