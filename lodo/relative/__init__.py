"""Relative LODO: meta-steps that multiply θ by I + F, and the parts that make it work without tuning."""

from lodo._state import GuardState, RelativeState
from lodo.relative.steps import scale_by_relative

__all__ = ["GuardState", "RelativeState", "scale_by_relative"]
