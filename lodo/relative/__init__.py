"""Relative LODO: meta-steps that multiply θ by I + F, and the parts that make it work without tuning."""

from lodo._state import GuardState, RelativeState, RlodoState
from lodo.relative.guard import guard
from lodo.relative.steps import scale_by_relative
from lodo.relative.transform import rlodo

__all__ = ["GuardState", "RelativeState", "RlodoState", "guard", "rlodo", "scale_by_relative"]
