"""Networks of the experiments, and the layers that need care to run well in XLA."""

from lodo_experiments.models.arctan import arctan
from lodo_experiments.models.autoregressive import AutoregressiveNetwork, initial_parameters
from lodo_experiments.models.depthwise import FORMS, default_form, depthwise
from lodo_experiments.models.resnet import CONVOLUTIONS, ResNet, convolve, default_convolution, initial_variables

__all__ = [
    "CONVOLUTIONS",
    "FORMS",
    "AutoregressiveNetwork",
    "ResNet",
    "arctan",
    "convolve",
    "default_convolution",
    "default_form",
    "depthwise",
    "initial_parameters",
    "initial_variables",
]
