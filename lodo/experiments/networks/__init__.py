"""Networks of the experiments, and the layers that need care to run well in XLA."""

from lodo.experiments.networks.arctan import arctan
from lodo.experiments.networks.autoregressive import AutoregressiveNetwork, initial_parameters
from lodo.experiments.networks.depthwise import FORMS, default_form, depthwise

__all__ = ["FORMS", "AutoregressiveNetwork", "arctan", "default_form", "depthwise", "initial_parameters"]
