"""Former name of :mod:`lodo_experiments.optimizers.reference`, which goes in 0.2."""

import importlib
import sys
import warnings

warnings.warn(
    "lodo.released is lodo_experiments.optimizers.reference now; the former name goes in 0.2.",
    FutureWarning,
    stacklevel=2,
)
sys.modules[__name__] = importlib.import_module("lodo_experiments.optimizers.reference")
