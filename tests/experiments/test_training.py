"""The training loop: the same numbers however it is cut, against a plain loop, and what it does with divergence."""

import dataclasses
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.search_spaces import OPTIMIZERS
from lodo_experiments.tasks.base import Task
from lodo_experiments.tasks.noisy_bowl import hessian, newton_floor, noisy_bowl
from lodo_experiments.tasks.rosenbrock import rosenbrock
from lodo_experiments.training.checkpoints import Checkpoint
from lodo_experiments.training.loop import train
from lodo_experiments.utils.progress import Progress

TUNED = {"initial_learning_rate": 0.270, "meta_learning_rate": 0.00096, "momentum": 0.195}


pytestmark = pytest.mark.usefixtures("sixty_four_bits")


@pytest.fixture(scope="module")
def bowl():
    return noisy_bowl(6)


@pytest.mark.exhaustive
def test_losses_do_not_depend_on_chunks_or_measurements_or_batching(bowl):
    LODO = optimizer_named("LODO")
    whole = train(bowl, LODO, steps=60, seeds=[3, 4])
    for other in (
        train(bowl, LODO, steps=60, seeds=[3, 4], chunk=7),
        train(bowl, LODO, steps=60, seeds=[3, 4], measure_every=10, chunk=25),
    ):
        np.testing.assert_array_equal(other.losses, whole.losses)
        jax.tree.map(np.testing.assert_array_equal, other.params, whole.params)
    # Batched products round differently from single ones.
    alone = train(bowl, LODO, steps=60, seeds=[3, 4], lanes=1, measure_every=20)
    np.testing.assert_allclose(alone.losses, whole.losses, rtol=1e-10)
    assert alone.measured["inverse_hessian_error"].shape == (2, 4)


def test_equals_a_plain_loop(bowl):
    run = train(bowl, optimizer_named("Adam"), steps=20, seeds=[5], hyperparameters={"learning_rate": 0.1})
    keys = jax.random.split(jax.random.key(5), 4)
    optimizer = optax.adam(0.1, eps=1e-7)
    x, c = jnp.zeros(6), jnp.zeros(6)
    state, losses = optimizer.init(x), []
    for t in range(20):
        c = c + jax.random.normal(jax.random.fold_in(keys[3], t), (6,))
        H = hessian(6)
        losses.append(0.5 * (x - c) @ H @ (x - c))
        update, state = optimizer.update(H @ (x - c), state)
        x = optax.apply_updates(x, update)
    np.testing.assert_allclose(run.losses[0], losses, rtol=1e-12)
    np.testing.assert_allclose(run.params[0], x, rtol=1e-12)


def test_measurements_are_taken_at_their_steps(bowl):
    run = train(bowl, optimizer_named("LODO"), steps=25, seeds=[0], hyperparameters=TUNED, measure_every=10, chunk=10)
    np.testing.assert_array_equal(run.measured_steps, [0, 10, 20])
    shorter = train(bowl, optimizer_named("LODO"), steps=10, seeds=[0], hyperparameters=TUNED, measure_every=5)
    error = "inverse_hessian_error"
    np.testing.assert_allclose(run.measured[error][0, 1], shorter.measured[error][0, 2], rtol=1e-12)
    # G(θ₀) = α₀ I: the first error is known.
    expected = np.linalg.norm(np.eye(6) - 0.27 * hessian(6)) / np.sqrt(6)
    np.testing.assert_allclose(run.measured[error][0, 0], expected, rtol=1e-12)


def test_lanes_have_their_own_hyperparameters_and_divergence_is_a_result(bowl):
    rates = {"learning_rate": np.array([0.1, 1e8])}
    run = train(bowl, optimizer_named("Momentum"), steps=60, seeds=[1, 1], hyperparameters=rates)
    assert run.diverged_at[0] == -1
    assert run.diverged_at[1] > 0
    assert np.isfinite(run.scores[0])
    assert np.isnan(run.scores[1])
    np.testing.assert_allclose(run.scores[0], run.losses[0, -6:].mean())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_on_the_bowl(bowl, name):
    run = train(bowl, optimizer_named(name), steps=3, seeds=[0])
    assert run.losses.shape == (1, 3)
    assert np.isfinite(run.losses).all()


def test_rosenbrock_is_measured_at_every_step():
    run = train(rosenbrock(), optimizer_named("LODO"), steps=4, seeds=[0], measure_every=1)
    path = np.stack([run.measured["x"][0], run.measured["y"][0]], axis=1)
    # The first step is zero: m₀ = 0.
    np.testing.assert_array_equal(path[0], [-0.5, 2.0])
    assert path.shape == (5, 2)
    losses = 0.01 * (1 - path[:, 0]) ** 2 + (path[:, 1] - path[:, 0] ** 2) ** 2
    np.testing.assert_allclose(run.losses[0], losses[:-1], rtol=1e-12)


def test_newton_floor_is_the_papers():
    np.testing.assert_allclose(newton_floor(hessian(100)), 7.411847, rtol=1e-7)
    eigenvalues = np.linalg.eigvalsh(hessian(100))
    np.testing.assert_allclose(eigenvalues, np.logspace(-3, 0, 100), rtol=1e-9)


def test_progress_is_told_after_each_chunk_and_changes_nothing(bowl):
    told = []
    args = {"steps": 30, "seeds": [0, 1], "chunk": 10}
    told_run = train(bowl, optimizer_named("Adam"), **args, progress=lambda *report: told.append(report[:2]))
    assert told == [(10, 30), (20, 30), (30, 30)]
    np.testing.assert_array_equal(told_run.losses, train(bowl, optimizer_named("Adam"), **args).losses)
    told.clear()
    train(bowl, optimizer_named("Adam"), **args, lanes=1, progress=lambda *report: told.append(report[:2]))
    assert told == [(10, 60), (20, 60), (30, 60), (40, 60), (50, 60), (60, 60)]


def test_progress_writes_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    clock = iter([0.0, 1.0, 12.0, 20.0]).__next__
    progress = Progress("bowl", out, clock, every=10.0)
    for done in (10, 50, 100):
        progress(done, 100, 1.0)
    lines = out.getvalue().splitlines()
    # The rate is that since the first report, whose time holds the compilation.
    assert [re.sub(r"\|.*\|", "", line) for line in lines] == [
        "bowl:  10% 10/100 [00:01<00:09, 10.00 steps/s, loss 1]",
        "bowl:  50% 50/100 [00:12<00:13,  3.64 steps/s, loss 1]",
        "bowl: 100% 100/100 [00:20<00:00,  4.74 steps/s, loss 1]",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1; got 0"),
        ({"seeds": []}, "at least one"),
        ({"seeds": [-1]}, "seeds must be an integer of at least 0"),
        ({"chunk": 0}, "chunk must be"),
        ({"hyperparameters": {"rate": 1.0}}, "LODO has no hyperparameter rate; it has initial_learning_rate"),
        ({"hyperparameters": {"momentum": [0.1, 0.2]}}, "one for each of 1 lanes"),
    ],
)
def test_bad_input_is_refused(bowl, change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train(bowl, optimizer_named("LODO"), **{"steps": 5, "seeds": [0], **change})


def test_an_optimizer_that_needs_a_hessian_says_so(bowl):
    import dataclasses

    without = dataclasses.replace(bowl, hessian=None)
    with pytest.raises(ValueError, match="Levenberg-Marquardt needs a Hessian"):
        train(without, optimizer_named("Levenberg-Marquardt"), steps=2, seeds=[0])


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="no optimizer 'adam'; there are LODO"):
        optimizer_named("adam")


def counting_task():
    """A loss whose evaluation moves its data state: a running mean of the batches, and how many there were."""

    def stateful_loss(x, batch, state):
        mean, count = state
        return jnp.sum((x - batch) ** 2), (0.9 * mean + 0.1 * batch, count + 1)

    return Task(
        "counting",
        (),
        init=lambda key: jnp.zeros(2),
        init_data=lambda data, key: (jnp.zeros(2), jnp.zeros((), int)),
        sample=lambda data, state, key: (jax.random.normal(key, (2,)), state),
        loss=lambda x, batch: jnp.sum((x - batch) ** 2),
        stateful_loss=stateful_loss,
        measure=lambda data, x, optimizer_state, state: {"mean": state[0][0], "count": state[1]},
    )


@pytest.mark.exhaustive
def test_a_data_state_that_the_loss_moves_goes_along(tmp_path):
    task, adam = counting_task(), optimizer_named("Adam")
    arguments = {"steps": 30, "seeds": [0, 1], "measure_every": 10, "chunk": 10}
    run = train(task, adam, **arguments)
    np.testing.assert_array_equal(run.measured["count"], [[0, 10, 20, 30]] * 2)
    np.testing.assert_array_equal(run.data_state[1], [30, 30])
    # The mean is that of the batches that were drawn, in order.
    batch_key = jax.random.split(jax.random.key(1), 4)[3]
    mean = np.zeros(2)
    for t in range(30):
        mean = 0.9 * mean + 0.1 * np.asarray(jax.random.normal(jax.random.fold_in(batch_key, t), (2,)))
    np.testing.assert_allclose(run.data_state[0][1], mean, rtol=1e-10)
    # The parameters do not depend on it.
    plain = dataclasses.replace(task, stateful_loss=None)
    np.testing.assert_array_equal(train(plain, adam, **arguments).losses, run.losses)
    # And it is part of what a checkpoint keeps.
    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train(task, adam, **arguments, checkpoint=Checkpoint(path, every=0.0), progress=_stop_at(20))
    again = train(task, adam, **arguments, checkpoint=Checkpoint(path))
    np.testing.assert_array_equal(again.data_state[0], run.data_state[0])
    np.testing.assert_array_equal(again.losses, run.losses)


def _stop_at(step):
    def report(done, total, loss):
        if done == step:
            raise KeyboardInterrupt

    return report
