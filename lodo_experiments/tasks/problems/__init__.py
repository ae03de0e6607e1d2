"""Small problems that optimizers are compared on: a suite to choose defaults by, and one held out to judge them by."""
