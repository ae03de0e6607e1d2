"""Where the paper's text, its released code and this project differ: the effect of each difference, measured.

One function for each difference that the book's page on them (``notebooks/paper_and_code.ipynb``) names. Both forms
are run by our own code, in float64, on tasks that are cheap. Runs of one task have the same seeds, and so the same
random walks; only the form differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodo import diagnostics, operators, quasi_newton
from lodo.operators.base import default_hidden_size
from lodo.operators.block_permutation import BlockPermutation
from lodo_experiments.config import presets
from lodo_experiments.models import AutoregressiveNetwork, initial_parameters
from lodo_experiments.optimizers.optimizer import Optimizer
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies.paper_and_code_runs import (
    BOWL_SIZE,
    KERAS,
    KERAS_ROUNDED,
    OPTAX_LARS,
    RELEASED,
    ROSENBROCK_STEPS,
    Amounts,
    Bench,
    BowlValues,
    SingularVectors,
    twice_hidden,
)
from lodo_experiments.studies.setup import Computed
from lodo_experiments.utils.progress import Progress

# Column → number or text; every row has the same columns.
Row = dict[str, Any]
# What differs, the paper's form, the code's.
Words = tuple[str, str, str]


#: The columns of the table, in order; a record does not keep theirs.
COLUMNS = (
    "what", "paper or textbook", "released code", "quantity", "value as paper", "value as code", "difference",
    "standard error", "runs", "diverged as paper", "diverged as code", "hyperparameters",
)  # fmt: skip


def row(key: str, what: str, paper: str, code: str, quantity: str, as_paper: float, as_code: float, **more: Any) -> Row:
    """One measured effect; ``difference`` is the code's value minus the paper's."""
    return {
        "key": key, "what": what, "paper or textbook": paper, "released code": code, "quantity": quantity,
        "value as paper": float(as_paper), "value as code": float(as_code), "difference": float(as_code - as_paper),
        "standard error": float("nan"), "runs": None, "diverged as paper": None, "diverged as code": None,
        "hyperparameters": None, **more,
    }  # fmt: skip


def compared(key: str, what: str, paper: str, code: str, quantity: str, runs: Sequence[np.ndarray], **more: Any) -> Row:
    """A `row` from one number for each run in both forms, nan where it diverged: means over the runs that ended.

    The difference is over the pairs that both ended; nan where there is none.
    """
    first, second = runs
    ended = np.isfinite(first) & np.isfinite(second)
    gap = (second - first)[ended]
    more = {
        "difference": float(gap.mean()) if len(gap) else float("nan"),
        "standard error": float(gap.std(ddof=1) / len(gap) ** 0.5) if len(gap) > 1 else float("nan"),
        "runs": len(first),
        "diverged as paper": int((~np.isfinite(first)).sum()),
        "diverged as code": int((~np.isfinite(second)).sum()),
        **more,
    }
    means = (float(v[np.isfinite(v)].mean()) if np.isfinite(v).any() else float("nan") for v in runs)
    return row(key, what, paper, code, quantity, *means, **more)


def _final(run: Run) -> np.ndarray:
    """[runs] the loss at the last step, nan for a run that diverged."""
    return np.where(run.diverged_at < 0, run.losses[:, -1], np.nan)


_ON_ROSENBROCK = f"loss at step {ROSENBROCK_STEPS}, Rosenbrock"
_ON_BOWL = "loss, last 10 % of steps, noisy bowl"


def _on_rosenbrock(bench: Bench, key: str, words: Words, forms: Sequence[Optimizer], **values: float) -> Row:
    """Two forms on Rosenbrock's function: the loss at the end, at the defaults but for ``values``."""
    losses = [_final(bench.rosenbrock(form, **values)) for form in forms]
    return compared(key, *words, _ON_ROSENBROCK, losses, hyperparameters="defaults")


def _on_bowl(bench: Bench, key: str, words: Words, forms: Sequence[Optimizer], **values: float) -> Row:
    """Two forms of LODO on the bowl: the score, with the authors' values but for ``values``."""
    scores = [bench.bowl(form, {**presets.AUTHORS_BOWL_VALUES, **values}).scores for form in forms]
    return compared(key, *words, _ON_BOWL, scores, hyperparameters="authors'")


def hidden_size(bench: Bench) -> list[Row]:
    """Page, "The method", *hidden size*: ñ = 2n against 2n + k − (2n mod k)."""
    words, n = ("hidden size ñ", "2n", "2n + k − (2n mod k)"), bench.size
    numbers = [form.sizes(n)["theta"] for form in (BlockPermutation(hidden_size=2 * n), BlockPermutation())]
    return [
        row("hidden_size", *words, f"ñ at n = {n}, k = 4", 2 * n, default_hidden_size(n, 4)),
        row("hidden_numbers", *words, f"numbers in θ at n = {n}", *numbers),
        _on_bowl(bench, "hidden_bowl", words, (twice_hidden(n), OPTIMIZERS["LODO"])),
    ]


def meta_optimizer(bench: Bench) -> list[Row]:
    """Page, "The method", *meta-optimizer*: optax's Adam or Keras's; its constants rounded to single precision."""
    adam = ("meta-optimizer", "Adam, ε on the corrected root", "Keras's Adam, ε̂ = 1e-7 on the uncorrected root")
    constants = ("constants of Adam", "as given", "rounded to single precision")
    forms, count = (KERAS, KERAS_ROUNDED), 50
    paths = [
        np.stack([run.measured[name][:, : count + 1] for name in ("x", "y")])
        for run in (bench.rosenbrock(form) for form in forms)
    ]
    change, quantity = np.abs(paths[1] - paths[0]).max(), f"largest change of x within {count} steps, Rosenbrock"
    more: dict[str, Any] = {"runs": bench.amounts.runs, "hyperparameters": "defaults"}
    return [
        _on_rosenbrock(bench, "adam_rosenbrock", adam, (OPTIMIZERS["LODO"], KERAS)),
        row("rounded_path", *constants, quantity, 0.0, change, **more),
        _on_rosenbrock(bench, "rounded_rosenbrock", constants, forms),
    ]


def blocks_at_start(bench: Bench) -> list[Row]:
    """Page, "The method", *blocks at the start*: uniformly random orthogonal, or singular vectors."""
    n, words = bench.size, ("blocks at the start", "random orthogonal", "right singular vectors of a Gaussian")

    def gap(form: BlockPermutation) -> jax.Array:
        theta, fixed = form.init(jax.random.key(0), n, jnp.float64)
        return jnp.abs(form.apply(theta, fixed, jnp.eye(n)) - jnp.eye(n)).max()

    gaps = [float(jax.jit(gap, static_argnums=0)(form)) for form in (BlockPermutation(), SingularVectors())]
    return [row("blocks_identity", *words, f"largest entry of G/α₀ − I at the start, n = {n}", *gaps)]


def hypergradient(bench: Bench) -> list[Row]:
    """Page, "The method", *hypergradient*: automatic differentiation against our closed form."""
    operator, n = BlockPermutation(), bench.size

    @jax.jit
    def gap(key: jax.Array) -> jax.Array:
        start, at, *keys = jax.random.split(key, 4)
        theta, fixed = operator.init(start, n, jnp.float64)
        theta = theta + 0.1 * jax.random.normal(at, theta.shape, theta.dtype)  # where S is not the identity
        m, g = (jax.random.normal(key, (n,), theta.dtype) for key in keys)
        automatic = jax.grad(lambda t: g @ operator.apply(t, fixed, m))(theta)
        return jnp.abs(operator.hypergradient(theta, fixed, m, g) - automatic).max() / jnp.abs(automatic).max()

    words = ("hypergradient", "backpropagation", "automatic differentiation; here a closed form")
    quantity = f"largest relative error of the closed form, n = {n}"
    return [row("hypergradient", *words, quantity, 0.0, gap(jax.random.key(0)))]


def global_is_diagonal(bench: Bench) -> list[Row]:
    """Page, "The variants", *LODO-Global*: one learned scalar, or the diagonal that the registry has."""
    forms = [OPTIMIZERS[name] for name in ("LODO-Global", "LODO-Diagonal")]
    words = ("LODO-Global", "one learned scalar", "a learned diagonal")
    return [
        _on_rosenbrock(bench, "global_rosenbrock", words, forms),
        _on_bowl(bench, "global_bowl", words, forms),
    ]


def no_momentum_is_residuals(bench: Bench) -> list[Row]:
    """Page, "The variants", *LODO-No-Momentum*: LODO with β = 0, or the residuals class with β = 0."""
    forms = [OPTIMIZERS[name] for name in ("LODO", "LODO-Residuals")]
    words = ("LODO-No-Momentum", "LODO with β = 0", "residuals with β = 0")
    return [
        _on_rosenbrock(bench, "no_momentum_rosenbrock", words, forms, momentum=0.0),
        _on_bowl(bench, "no_momentum_bowl", words, forms, momentum=0.0),
    ]


def residuals_start(bench: Bench) -> list[Row]:
    """Page, "The variants", *LODO-Residuals*: the spectrum of G/α₀ at the start, where LODO's is the identity."""
    words, n, draws = ("start of LODO-Residuals", "near the identity", "not near it"), bench.size, 20
    forms = (BlockPermutation(depth=8), operators.Residuals(depth=8))
    found = np.stack([_start_spectrum(form, n, draws) for form in forms])
    rows = []
    for name, end in (("smallest", 0), ("largest", -1)):
        quantity = f"{name} eigenvalue of G/α₀, 8 layers, n = {n}, median of {draws} draws"
        rows.append(row(f"residuals_{name}", *words, quantity, *np.median(found[:, :, end], axis=1), runs=draws))
    return rows


def _start_spectrum(operator: operators.Operator, size: int, draws: int) -> np.ndarray:
    """[draws, n] eigenvalues of S(θ₀), ascending."""

    def one(key: jax.Array) -> jax.Array:
        theta, fixed = operator.init(key, size, jnp.float64)
        return jnp.linalg.eigvalsh(operator.apply(theta, fixed, jnp.eye(size)))

    return np.asarray(jax.lax.map(one, jax.random.split(jax.random.key(0), draws)))


def two_gradients(bench: Bench) -> list[Row]:
    """Page, "The baselines", *L-BFGS and O-LBFGS*: two gradients a step on one batch, both in the loss curve."""
    origin, values = bench.values["L-BFGS"]
    run = bench.bowl(OPTIMIZERS["L-BFGS"], values, look_back=True)
    curve = np.stack([run.losses, run.measured["after"][:, 1:]], axis=2).reshape(len(run.losses), -1)
    half = run.losses[:, : run.losses.shape[1] // 2]
    what, more = "samples of L-BFGS", {"hyperparameters": origin}
    return [
        row("gradients", what, "one a step", "two a step", "gradients that a step evaluates", 1, gradients_of_a_step()),
        compared(
            "gradients_budget", what, "a sample is a step", "a sample is a gradient",
            f"{_ON_BOWL}, at equal samples", [run.scores, _tail(half)], **more,
        ),
        compared(
            "gradients_curve", what, "loss before the step", "loss before and after it", f"{_ON_BOWL}, of the curve",
            [run.scores, _tail(curve)], **more,
        ),
    ]  # fmt: skip


def gradients_of_a_step() -> int:
    """How many gradients L-BFGS evaluates in a step: the one that it is given, and those that it asks for."""
    asked: list[Any] = []

    def gradient(x: jax.Array) -> jax.Array:
        asked.append(x)
        return x

    x = jnp.ones(3)
    optimizer = quasi_newton.lbfgs_no_line_search()
    optimizer.update(gradient(x), optimizer.init(x), x, grad_fn=gradient)
    return len(asked)


def _tail(losses: np.ndarray, share: float = 0.1) -> np.ndarray:
    """[runs] mean over the last share of [runs, steps]; nan for a run that diverged."""
    tail = losses[:, -max(1, round(losses.shape[1] * share)) :]
    good = np.isfinite(losses).all(axis=1)
    return np.where(good, np.where(np.isfinite(tail), tail, 0).mean(axis=1), np.nan)


def quasi_newton_forms(bench: Bench) -> list[Row]:
    """Page, "The baselines", *L-BFGS* and *BFGS*: the textbook's form or the code's.

    On the bowl L-BFGS's forms differ in the step that sets the scale alone: every pair has positive curvature there.
    """
    return [
        _baseline(bench, "lbfgs_bowl", "L-BFGS", ("scale of L-BFGS", "newest step", "oldest step")),
        _baseline(bench, "bfgs_bowl", "BFGS", ("BFGS", "guarded, float64", "unguarded, float32")),
    ]


def levenberg_marquardt(bench: Bench) -> list[Row]:
    """Page, "The baselines", *Levenberg–Marquardt*: with the Hessian, or with its square."""
    name, words = "Levenberg-Marquardt", ("Levenberg–Marquardt", "(H + λ diag H) δ = g", "(H² + λ diag H²) δ = H g")
    scores = [bench.bowl(form, {"damping": 1.0}).scores for form in (OPTIMIZERS[name], RELEASED[name])]
    return [
        _baseline(bench, "levenberg_marquardt_bowl", name, words),
        compared("damped_bowl", *words, f"{_ON_BOWL}, λ = 1", scores, hyperparameters="defaults"),
    ]


def yogi(bench: Bench) -> list[Row]:
    """Page, "The baselines", *Yogi*: bias-corrected and from a small constant, as optax has it, or neither."""
    words = ("Yogi", "bias-corrected, from 1e-6 (optax)", "uncorrected, from 0")
    return [
        _baseline(bench, "yogi_bowl", "Yogi", words),
        _on_rosenbrock(bench, "yogi_rosenbrock", words, (OPTIMIZERS["Yogi"], RELEASED["Yogi"])),
    ]


def _baseline(bench: Bench, key: str, name: str, words: Words) -> Row:
    """A baseline in the textbook's form and in the released one on the bowl, as tuned for the textbook's: the score."""
    origin, *runs = bench.both(name)
    return compared(key, *words, _ON_BOWL, [run.scores for run in runs], hyperparameters=origin)


def lars_at_zero(bench: Bench) -> list[Row]:
    """Page, "The baselines", *LARS*: its step is scaled by the norm of the parameters, so that it stays at x₀ = 0."""
    runs = [bench.bowl(form, {}) for form in (OPTAX_LARS, OPTIMIZERS["LARS"])]
    norms = [np.linalg.norm(np.asarray(run.params), axis=1) for run in runs]
    words = ("LARS at x₀ = 0", "trust ratio 1 there (optax)", "trust ratio 0 there")
    quantity = f"‖x‖ after {bench.amounts.bowl_steps:,} steps, noisy bowl"
    return [compared("lars_bowl", *words, quantity, norms, hyperparameters="defaults")]


def momentum_default(bench: Bench) -> list[Row]:
    """Page, "The baselines", *momentum descent*: a momentum of 0.9, the usual value, or the defaults' 0."""
    losses = [_final(bench.rosenbrock(OPTIMIZERS["Momentum"], momentum=value)) for value in (0.9, 0.0)]
    words = ("momentum descent", "momentum 0.9, the usual value", "momentum 0")
    return [compared("momentum_rosenbrock", *words, _ON_ROSENBROCK, losses, hyperparameters="defaults")]


def score(bench: Bench) -> list[Row]:
    """Page, "The experiments", *"final 90 %"*: the last tenth of a run, or its last nine tenths as the words say."""
    run = bench.bowl(OPTIMIZERS["LODO"], presets.AUTHORS_BOWL_VALUES)
    words = ("score", "last 10 % of steps", 'the same, logged as "final 90 %"; here read literally')
    scores = [run.scores, _tail(run.losses, 0.9)]
    quantity = "loss, mean over those steps, noisy bowl"
    return [compared("score_bowl", *words, quantity, scores, hyperparameters="authors'")]


def metric(bench: Bench) -> list[Row]:
    """Page, "The experiments", *the bowl's metric*: exact, or estimated with 100 random unit vectors."""
    run = bench.bowl(OPTIMIZERS["LODO"], presets.AUTHORS_BOWL_VALUES)
    state = jax.tree.map(lambda leaf: leaf[0], run.optimizer_state)
    H = bench.bowl_task.data.hessian
    exact = float(diagnostics.inverse_hessian_error(state, H))

    @jax.jit
    @jax.vmap
    def estimate(key: jax.Array) -> jax.Array:
        return diagnostics.inverse_hessian_error(state, H, probes=100, key=key)

    drawn = np.asarray(estimate(jax.random.split(jax.random.key(0), bench.amounts.draws)))
    words = ("‖I − G H‖_F / √n", "exact (here)", "100 random unit vectors")
    error: dict[str, Any] = {"runs": len(drawn), "standard error": float(drawn.std(ddof=1) / len(drawn) ** 0.5)}
    return [
        row("metric_mean", *words, "mean over draws of the vectors, learned G", exact, drawn.mean(), **error),
        row("metric_spread", *words, "standard deviation over draws", 0.0, drawn.std(ddof=1), runs=len(drawn)),
    ]


def softmax(bench: Bench) -> list[Row]:
    """Page, "The experiments", *softmax*: cross-entropy from logits, or from probabilities clipped to [1e-7, 1 − 1e-7].

    The clipping is what Keras documents of its cross-entropy on probabilities (its ``epsilon()``, 1e-7); it is assumed,
    not run here. Ten classes in single precision: the right one's logit is z, the others' are 0.
    """
    z = np.linspace(-30, 30, 1201)
    (plain, slope), (clipped, flat) = (cross_entropies(z, form) for form in (from_logits, from_probabilities))
    words = ("cross-entropy", "from logits", "from clipped probabilities")
    middle = np.abs(z) <= 10
    return [
        row("softmax_largest", *words, "largest loss, z from −30 to 30", plain.max(), clipped.max()),
        row(
            "softmax_middle", *words, "largest difference of the losses, |z| ≤ 10",
            0.0, np.abs(clipped - plain)[middle].max(),
        ),
        row("softmax_slope", *words, "derivative by z at z = −30", slope[0], flat[0]),
    ]  # fmt: skip


def from_logits(z: jax.Array) -> jax.Array:
    """−log softmax(z)[0] of logits [classes]."""
    return -jax.nn.log_softmax(z)[0]


def from_probabilities(z: jax.Array) -> jax.Array:
    """The same from the probabilities, normalised again and clipped as Keras's documentation says."""
    p = jax.nn.softmax(z)
    p = p / jnp.sum(p)
    tiny = jnp.asarray(1e-7, p.dtype)
    return -jnp.log(jnp.clip(p, tiny, 1 - tiny)[0])


def cross_entropies(z: np.ndarray, form: Callable[[jax.Array], jax.Array]) -> tuple[np.ndarray, np.ndarray]:
    """Losses and their derivatives in float32, each [logits]: ten classes, the right one's logit z, the others' 0.

    >>> round(float(cross_entropies(np.zeros(1), from_logits)[0][0]), 4)
    2.3026
    """

    def loss(value: jax.Array) -> jax.Array:
        return form(jnp.zeros(10, jnp.float32).at[0].set(value))

    values = jax.vmap(jax.value_and_grad(loss))(jnp.asarray(z, jnp.float32))
    return np.asarray(values[0]).astype(float), np.asarray(values[1]).astype(float)


def parameters(bench: Bench) -> list[Row]:
    """Page, "The experiments", *the generation network*: 95k parameters in the text, counted in the code."""
    paper = presets.IMAGE_GENERATION["paper"]
    assert isinstance(paper, presets.ImageGenerationPreset)
    network = AutoregressiveNetwork(256, paper.width, paper.hidden, blocks=paper.blocks)
    shapes = jax.eval_shape(lambda key: initial_parameters(network, key, 28, 28), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return [row("parameters", "generation network", "95k", "counted", "parameters", 95_000, count)]


#: Every difference that is measured, in the page's order.
DIFFERENCES: tuple[Callable[[Bench], list[Row]], ...] = (
    hidden_size, meta_optimizer, blocks_at_start, hypergradient, global_is_diagonal, no_momentum_is_residuals,
    residuals_start, two_gradients, quasi_newton_forms, levenberg_marquardt, yogi, lars_at_zero,
    momentum_default, score, metric, softmax, parameters,
)  # fmt: skip


def measure_differences(bench: Bench) -> Computed:
    """All rows, for a record: under ``values["rows"]``."""
    rows: list[Row] = []
    progress = Progress("paper_and_code", unit="differences")
    for done, difference in enumerate(DIFFERENCES, start=1):
        rows += difference(bench)
        progress(done, len(DIFFERENCES))
    return Computed({}, {"rows": rows}, bench.compile_seconds)


def table(rows: Sequence[Row]) -> list[Row]:
    """The rows of a record as the table that a page shows: columns in order, without the keys.

    >>> list(table([row("k", "what", "paper", "code", "quantity", 1, 3)])[0].items())[4:7]
    [('value as paper', 1.0), ('value as code', 3.0), ('difference', 2.0)]
    """
    return [{column: row[column] for column in COLUMNS} for row in rows]


def settings(amounts: Amounts, values: BowlValues, size: int = BOWL_SIZE) -> dict[str, Any]:
    """What decides the numbers, as JSON values."""
    own = {"bowl_runs" if name == "seeds" else name: value for name, value in asdict(amounts).items()}
    return {**own, "size": size, "values": {name: list(value) for name, value in values.items()}}
