"""The optimizers that are compared, with the hyperparameters that each is tuned from."""
