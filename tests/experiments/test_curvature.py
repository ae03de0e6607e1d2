"""G against the Hessian of a network, from products with vectors alone, beside dense matrices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import lodo
from lodo_experiments.analysis import network_curvature
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.report import answers, curvature_figures
from lodo_experiments.results import records
from lodo_experiments.results.records import Record
from lodo_experiments.studies import registry
from lodo_experiments.studies.experiments.image_classification import BATCHES
from lodo_experiments.studies.experiments.image_generation import SLICE, SLICES
from lodo_experiments.studies.experiments.variants import CURVATURE_SEED
from lodo_experiments.studies.setup import DataOptions
from lodo_experiments.training.curvature import curvature, curvature_of_runs

RESULTS = Path(__file__).resolve().parents[2] / "results"
SIZE = 24


@pytest.fixture
def problem(sixty_four_bits):
    """A loss with a Hessian that depends on where it is taken, parameters in a tree, and a G that has moved."""
    params = {"w": jax.random.normal(jax.random.key(0), (SIZE - 4,)), "b": jnp.ones(4)}
    slices = jax.random.normal(jax.random.key(1), (3, 16, SIZE))

    def loss(params, slice_):
        x = ravel_pytree(params)[0]
        return jnp.mean(jnp.log(jnp.cosh(slice_ @ x))) + 0.01 * jnp.sum(x**4)

    state = lodo.lodo(0.3, depth=4).init(params)
    moved = state.theta + 0.2 * jax.random.normal(jax.random.key(2), state.theta.shape)
    return loss, slices, params, state._replace(theta=moved)


def _hessian(loss, slices, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.hessian(lambda x: jnp.mean(jax.vmap(lambda s: loss(unravel(x), s))(slices)))(flat))


def _lanes(one):
    """A tree of one run as a tree of runs."""
    return jax.tree.map(lambda leaf: leaf[None], one)


def test_all_agrees_with_dense_matrices(problem):
    loss, slices, params, state = problem
    found = curvature(loss, slices, params, state, pairs=6, iterations=SIZE, probes=50)
    values, vectors = np.linalg.eigh(_hessian(loss, slices, params))
    G = np.asarray(lodo.diagnostics.dense(state))
    np.testing.assert_allclose(found["curvatures"], values[::-1][:6], rtol=1e-10)
    assert found["curvature_residuals"].max() < 1e-10
    top = vectors[:, ::-1][:, :6]
    expected = top.T @ G @ top
    signs = np.sign(found["inverse_in_eigenbasis"] / expected)
    np.testing.assert_allclose(np.abs(found["inverse_in_eigenbasis"]), np.abs(expected), rtol=1e-8)
    assert np.linalg.matrix_rank(signs) == 1  # an eigenvector's sign is free, and nothing else is
    # With as many products as there are parameters the nodes are all of G's eigenvalues; weights sum to 1.
    spectrum = np.linalg.eigvalsh(G)
    np.testing.assert_allclose(found["inverse_nodes"], np.tile(spectrum, (50, 1)), rtol=1e-8)
    np.testing.assert_allclose(found["inverse_weights"].sum(axis=1), 1.0, rtol=1e-10)
    for power in (1, 2):
        estimate = np.sum(found["inverse_weights"] * found["inverse_nodes"] ** power, axis=1).mean()
        assert estimate == pytest.approx(np.mean(spectrum**power), rel=0.2)


def test_a_few_products_find_the_steepest_directions(problem):
    loss, slices, params, state = problem
    found = curvature(loss, slices, params, state, pairs=2, iterations=12, probes=1)
    np.testing.assert_allclose(
        found["curvatures"], np.linalg.eigvalsh(_hessian(loss, slices, params))[:-3:-1], rtol=1e-3
    )
    assert found["inverse_in_eigenbasis"].shape == (2, 2)


@pytest.mark.parametrize("amounts", [{"pairs": 0}, {"pairs": 9, "iterations": 8}, {"iterations": SIZE + 1}])
def test_numbers_out_of_range_are_refused(problem, amounts):
    with pytest.raises(ValueError, match=r"pairs|iterations"):
        curvature(*problem, **{"pairs": 2, "iterations": 8, "probes": 1, **amounts})


def test_a_state_of_other_parameters_is_refused(problem):
    loss, slices, params, _ = problem
    with pytest.raises(ValueError, match=rf"of the {SIZE} parameters given; it is of 3\."):
        curvature(loss, slices, params, lodo.lodo(depth=1).init(jnp.zeros(3)), pairs=2, iterations=8, probes=1)


def test_other_optimizers_have_nothing_to_measure(problem):
    loss, slices, params, _ = problem
    adam = optimizer_named("Adam")
    state = adam.build(adam.defaults, jax.random.key(0), 1).init(params)
    assert curvature_of_runs(loss, slices, *_lanes((params, state))) == {}


@pytest.mark.parametrize("name", ["image_generation", "image_classification"])
def test_the_experiment_takes_the_values_that_were_tuned_and_fewer_steps(name):
    experiment = registry.named(f"{name}_curvature")
    preset, base = experiment.preset("desktop"), registry.named(name).preset("desktop")
    assert preset == replace(base, schedule=(), optimizers=("LODO",), steps=1_000, seeds=2, measure_every=1_000)
    assert experiment.needs("desktop") == ((name, "LODO"),)
    assert SLICES * SLICE == BATCHES * base.batch_size == 512


def test_a_classifier_s_hessian_is_that_of_the_training_loss():
    """From the task as it is declared, batches, BatchNorm and penalty included, beside a dense Hessian."""
    experiment = registry.named("image_classification_curvature")
    preset = replace(experiment.preset("smoke"), width=1, stages=(1,), batch_size=16)
    setup = experiment.adapt(preset, experiment.base.setup(preset, DataOptions()))
    params = jax.jit(setup.task.init)(jax.random.key(5))
    state = lodo.lodo(0.3).init(params)
    run = SimpleNamespace(**dict(zip(("params", "optimizer_state"), _lanes((params, state)), strict=True)))
    found = setup.after(setup.task, run)
    keys = jax.random.split(jax.random.key(CURVATURE_SEED), BATCHES)
    statistics = setup.task.init_data(setup.task.data, jax.random.key(0))
    batches = [setup.task.sample(setup.task.data, statistics, key)[0] for key in keys]
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda x, batch: setup.task.loss(unravel(x), batch)))
    values = np.linalg.eigvalsh(np.mean([hessian(flat, batch) for batch in batches], axis=0, dtype=np.float64))
    converged = found["curvature_residuals"][0] < 1e-3 * found["curvatures"][0]
    assert converged[:3].all()
    np.testing.assert_allclose(found["curvatures"][0][converged], values[::-1][: len(converged)][converged], rtol=1e-3)
    np.testing.assert_allclose(found["inverse_in_eigenbasis"][0], 0.3 * np.eye(len(converged)), atol=1e-3)


def test_the_page_says_what_the_record_says():
    # G/α₀ is 1/2, 1, 2 along curvatures 8, 4, 2, and its own eigenvalues are 1/2 and 2, one part in four and the rest.
    gains, curvatures = np.array([0.5, 1.0, 2.0, 9.0]), np.array([8.0, 4.0, 2.0, 1.0])
    arrays = {
        "curvature_residuals": np.array([[0.0, 0.0, 0.02, 0.011]]),  # the last pair was not found
        "curvatures": curvatures[None],
        "inverse_in_eigenbasis": 0.1 * np.diag(gains)[None],
        "inverse_nodes": 0.1 * np.array([[[0.5, 2.0], [0.5, 2.0]]]),
        "inverse_weights": np.array([[[0.25, 0.75], [0.25, 0.75]]]),
    }
    values = {"steps": 1000, "hyperparameters": {"initial_learning_rate": 0.1, "momentum": 0.5}}
    record = Record("image_generation_curvature/LODO", arrays, values, {"seeds": [3]})
    (row,) = network_curvature.curvature_table(record)
    assert row["seed"] == 3
    expected = {
        "largest λ": 8.0,
        "qᵀGq/α₀ along its q": 0.5,
        "eigenvectors found": 3,
        "mean qᵀGq/α₀ over them": 3.5 / 3,
        "first λ over the last": 4.0,
        "last qᵀGq over the first": 4.0,
        "mean eigenvalue of G/α₀": 1.625,
        "rank correlation of λ and qᵀGq": -1.0,
        "α₀ times the largest λ": 0.8,
        "largest eigenvalue of G H, on them": 0.9,
        "stable up to, for a fixed G": 6.0,
        "second λ over the last": 2.0,
        "last qᵀGq over the second": 2.0,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    said = answers.of_curvature(record)
    assert "is 0.5 along the steepest direction, and 1.6 in the mean" in said
    assert (
        "Over the 3 steepest $\\lambda$ falls by a factor of 4 and $q^\\top G q/\\alpha_0$ grows by a factor of 4;"
        in said
    )
    assert "is -1, where" in said
    assert "without the first of them the factors are 2 for the one and 2 for the other" in said
    assert said.endswith("where $-1$ is the inverse Hessian's.")  # and no conclusion: this is the inverse
    for lost in ({"curvature_residuals": np.full((1, 4), np.nan)}, {"curvature_residuals": np.array([[9.0, 0, 0, 0]])}):
        without = replace(record, arrays=arrays | lost)
        assert network_curvature.by_quantity(network_curvature.curvature_table(without)) == []
        assert "nothing is known" in answers.of_curvature(without)
    (points,) = curvature_figures.gains_by_curvature(record).data
    np.testing.assert_allclose([points.x, points.y], [curvatures[:3], gains[:3]])
    (line,) = curvature_figures.inverse_distribution(record).data
    np.testing.assert_allclose([line.x, line.y], [[0.5, 0.5, 2.0, 2.0], [0.125, 0.25, 0.625, 1.0]])


def test_on_the_classifier_g_is_smaller_along_the_steepest_directions():
    """What the changelog says, and the page computes."""
    rows = network_curvature.curvature_table(
        records.load(RESULTS / "desktop" / "image_classification_curvature" / "LODO.npz")
    )
    found = [(row["mean qᵀGq/α₀ over them"], row["mean eigenvalue of G/α₀"]) for row in rows]
    assert np.round(found, 2).tolist() == [[0.76, 0.87], [0.74, 0.86]]
    assert all(row["eigenvectors found"] == 16 and row["rank correlation of λ and qᵀGq"] < -0.7 for row in rows)


def test_the_stored_record_turns_towards_the_inverse_hessian_and_is_far_from_it():
    """What the page's last sentence says."""
    record = records.load(RESULTS / "desktop" / "image_generation_curvature" / "LODO.npz")
    for row in network_curvature.curvature_table(record):
        assert row["rank correlation of λ and qᵀGq"] < -0.5
        assert 1.2 < row["last qᵀGq over the first"] < row["first λ over the last"] / 5
    assert answers.of_curvature(record).endswith("and is far from it.")
