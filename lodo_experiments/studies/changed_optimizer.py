"""LODO as a changed preset asks for it: another form of G, another meta-optimizer, rates that are not tuned."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optax

from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.diagonal import Diagonal, Scalar
from lodo.operators.residuals import Residuals
from lodo_experiments.config.presets import LODO_FORM, LODO_RATES, Preset
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.optimizers.search_spaces import lodo_with

_WITHOUT_BLOCKS = {"diagonal": Diagonal, "scalar": Scalar, "residuals": Residuals}


def as_asked(optimizer: Optimizer, preset: Preset) -> Optimizer:
    """LODO in the form that a preset asks for; any other optimizer as it is.

    Raises:
      ValueError: the preset's form of LODO contradicts itself.
    """
    form = {field: getattr(preset, field) for field in LODO_FORM if getattr(preset, field, None) is not None}
    return _changed(optimizer, **form) if optimizer.name == "LODO" and form else optimizer


def given_rates(preset: Preset, name: str) -> dict[str, float]:
    """Hyperparameters of an optimizer that a preset gives, so that they are not tuned; only LODO has any."""
    rates = {field: getattr(preset, field, None) for field in LODO_RATES} if name == "LODO" else {}
    return {field: rate for field, rate in rates.items() if rate is not None}


def with_given(optimizer: Optimizer, rates: Mapping[str, float]) -> Optimizer:
    """An optimizer of fewer hyperparameters, some of which are given: what tuning searches over.

    >>> from lodo_experiments.optimizers.names import optimizer_named
    >>> list(with_given(optimizer_named("LODO"), {"momentum": 0.5}).defaults)
    ['initial_learning_rate', 'meta_learning_rate']
    """
    return _with_given(optimizer, tuple(sorted(rates.items()))) if rates else optimizer


# Cached, as compiled programs are found again by the optimizer's identity.
@functools.cache
def _with_given(optimizer: Optimizer, rates: tuple[tuple[str, float], ...]) -> Optimizer:
    given = dict(rates)

    return replace(
        optimizer,
        build=lambda h, key, steps: optimizer.build({**h, **given}, key, steps),
        defaults={n: v for n, v in optimizer.defaults.items() if n not in given},
    )


@functools.cache
def _changed(
    base: Optimizer,
    depth: int | None = None,
    block_size: int | None = None,
    operator: str | None = None,
    meta_optimizer: str | None = None,
) -> Optimizer:
    sizes: dict[str, Any] = {
        name: size for name, size in {"depth": depth, "block_size": block_size}.items() if size is not None
    }
    if sizes and operator in _WITHOUT_BLOCKS:
        raise ValueError(
            f"depth and block_size are of the operator 'block_permutation', and operator is {operator!r}; leave "
            "them out, or leave the operator as it is."
        )
    form: Any = _WITHOUT_BLOCKS[operator]() if operator in _WITHOUT_BLOCKS else BlockPermutation(**sizes)
    build = lodo_with(optax.sgd if meta_optimizer == "sgd" else None, operator=form)
    words = {"depth": depth, "block_size": block_size, "operator": operator, "meta_optimizer": meta_optimizer}
    about = ", ".join(f"{word} {value}" for word, value in words.items() if value is not None)
    return replace(base, build=build, about=f"{base.about}, with {about}")
