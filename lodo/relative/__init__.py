"""Relative LODO: meta-steps that multiply θ by I + F, and the parts that make it work without tuning."""

from lodo.relative.state import RlodoState
from lodo.relative.steps import RelativeState, scale_by_relative
from lodo.relative.transform import rlodo

__all__ = ["RelativeState", "RlodoState", "rlodo", "scale_by_relative"]
