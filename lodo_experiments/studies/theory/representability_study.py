"""What the notebook on representability measures: three parts, each a record."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodo.operators.base import Operator, default_hidden_size
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.residuals import Residuals
from lodo_experiments.config.theory_presets import RepresentabilityPreset
from lodo_experiments.results.records import Record
from lodo_experiments.studies.setup import Computed, Part
from lodo_experiments.studies.theory import operator_fits, representability
from lodo_experiments.utils.double_precision import require_double_precision

#: Layers at most in the search for the depth at which the rank is full.
DEEPEST = 30


@dataclass(frozen=True)
class RepresentabilityStudy:
    """The parts of the notebook on representability."""

    preset: RepresentabilityPreset  # how much to compute

    def ranks(self) -> Part:
        """Exact ranks of the Jacobian, layer by layer until they are full: one row for each n, k, ñ, draw and N."""
        preset = self.preset

        def compute() -> Computed:
            rows = [
                (size, k, hidden, seed, depth, rank, bound)
                for size in preset.rank_sizes
                for k in preset.block_sizes
                for hidden in (default_hidden_size(size, k), size)
                if hidden % k == 0
                for seed in range(self.preset.seeds)
                for depth, rank, bound in _until_full(size, k, hidden, seed)
            ]
            names = ("size", "block_size", "hidden_size", "seed", "depth", "rank", "bound")
            return Computed(dict(zip(names, np.array(rows).T, strict=True)), {"deepest": DEEPEST})

        return self._part(
            ("rank_sizes", "block_sizes"), list(range(self.preset.seeds)), compute, {"seeds": self.preset.seeds}
        )

    def defaults(self) -> Part:
        """Singular values of the Jacobian at the optimizer's own start, N = 16 and k = 4."""
        preset, operator = self.preset, BlockPermutation()

        def compute() -> Computed:
            require_double_precision()
            found = []
            for size in preset.default_sizes:
                theta, fixed = operator.init(jax.random.key(0), size, jnp.float64)
                J = representability.jacobian(operator, theta, fixed, size)
                # The singular values by the small Gram matrix; they are far from rounding where the rank is full.
                found.append(np.sqrt(np.maximum(np.linalg.eigvalsh(np.asarray(J @ J.T)), 0)))
            ranks = [representability.numerical_rank(values, 1e-6) for values in found]
            return Computed(
                {
                    "size": np.array(preset.default_sizes),
                    "rank": np.array([rank for rank, _ in ranks]),
                    "entries": np.array([len(values) for values in found]),
                    "parameters": np.array([operator.sizes(size)["theta"] for size in preset.default_sizes]),
                    "smallest": np.array([values[0] for values in found]),
                    "largest": np.array([values[-1] for values in found]),
                },
                {"depth": operator.depth, "block_size": operator.block_size},
            )

        return self._part(("default_sizes",), [0], compute)

    def fits(self) -> Part:
        """Errors of the best fits: form and number of parameters × family × matrix × draw of the permutations."""
        preset, size = self.preset, self.preset.fit_sizes[0] * self.preset.fit_sizes[1]

        def compute() -> Computed:
            T = np.array(
                [
                    operator_fits.target(f, preset.fit_sizes, seed)
                    for f in operator_fits.FAMILIES
                    for seed in range(preset.targets)
                ]
            )
            names, numbers, errors = [], [], []
            for name, count, approximate in self._closed_forms():
                error = [operator_fits.relative_error(approximate(matrix), matrix) for matrix in T]
                names.append(name)
                numbers.append(count)
                errors.append(np.repeat(np.array(error)[:, None], preset.draws, axis=1))
            for name, operator in self._operators(size):
                names.append(name)
                numbers.append(operator.sizes(size)["theta"])
                errors.append(
                    operator_fits.fit(
                        operator, T, draws=preset.draws, restarts=preset.restarts, iterations=preset.iterations
                    )
                )
            shape = (len(names), len(operator_fits.FAMILIES), preset.targets, preset.draws)
            return Computed(
                {"form": np.array(names), "parameters": np.array(numbers), "error": np.array(errors).reshape(shape)},
                {"families": list(operator_fits.FAMILIES), "size": size, "entries": size * (size + 1) // 2},
            )

        names = ("fit_sizes", "fit_depths", "residual_depths", "targets", "draws", "restarts", "iterations")
        return self._part(names, list(range(preset.draws)), compute)

    def parts(self) -> dict[str, Part]:
        """Every part, by name."""
        return {"ranks": self.ranks(), "defaults": self.defaults(), "fits": self.fits()}

    def _closed_forms(self) -> Iterator[tuple[str, int, Callable[[np.ndarray], np.ndarray]]]:
        """Forms whose best fit is known, with the number of parameters, up to that of a full symmetric matrix."""
        a, b = sizes = self.preset.fit_sizes
        size, entries = a * b, a * b * (a * b + 1) // 2
        yield "Diagonal", size, operator_fits.best_diagonal
        for rank in range(1, size):
            if rank * size + 1 <= entries:
                yield "low rank + c I", rank * size + 1, functools.partial(operator_fits.best_low_rank, rank=rank)
        each = a * (a + 1) // 2 + b * (b + 1) // 2
        for terms in range(1, min(a, b) ** 2 + 1):
            if terms * each <= entries:
                yield (
                    "Kronecker",
                    terms * each,
                    functools.partial(operator_fits.best_kronecker, sizes=sizes, terms=terms),
                )

    def _operators(self, size: int) -> Iterator[tuple[str, Operator]]:
        for k, depths in self.preset.fit_depths.items():
            for depth in depths:
                yield f"LODO, k = {k}", BlockPermutation(depth, int(k), size)
        for depth in self.preset.residual_depths:
            yield "Residuals", Residuals(depth, size)

    def _part(
        self,
        names: Sequence[str],
        seeds: list[int],
        compute: Callable[[], Computed],
        more: Mapping[str, Any] | None = None,
    ) -> Part:
        given = self.preset.settings()
        return Part({name: given[name] for name in names} | dict(more or {}), seeds, compute)


def within_budget(record: Record, budget: int) -> dict[str, int]:
    """Form → place in the record of its variant with the most parameters that are within the budget."""
    chosen: dict[str, int] = {}
    for place, (form, count) in enumerate(zip(record.arrays["form"], record.arrays["parameters"], strict=True)):
        best = chosen.get(str(form))
        if count <= budget and (best is None or count > record.arrays["parameters"][best]):
            chosen[str(form)] = place
    return chosen


def _until_full(size: int, block_size: int, hidden: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """(N, exact rank, bound) for N = 1, 2, … until the rank is n (n + 1)/2."""
    rng = np.random.default_rng([size, block_size, hidden, seed])
    forward = np.array([rng.permutation(hidden) for _ in range(DEEPEST)])
    for depth in range(1, DEEPEST + 1):
        rank = representability.exact_rank(forward[:depth], size, block_size, seed=seed)
        yield depth, rank, representability.rank_bound(forward[:depth], size, block_size)
        if rank == size * (size + 1) // 2:
            return
