"""Bad input is refused where it enters: the message names the argument, what was given and what is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lodo
from lodo import operators

X = jnp.ones(3)
DIAGONAL = operators.Diagonal()


def refused(error, *parts):
    """A context that expects the error, with every part in its message, in order."""
    return pytest.raises(error, match="(?s)" + ".*".join(parts))


@pytest.mark.parametrize(
    ("arguments", "error", "parts"),
    [
        # The initial learning rate α₀.
        ({"initial_learning_rate": -1}, ValueError, [r"initial_learning_rate must be a number in \[0, ∞\)", r"got -1"]),
        ({"initial_learning_rate": float("nan")}, ValueError, ["initial_learning_rate must be a number", "got nan"]),
        ({"initial_learning_rate": np.inf}, ValueError, ["initial_learning_rate must be a number", "got inf"]),
        ({"initial_learning_rate": "1"}, TypeError, ["initial_learning_rate must be", "schedule", r"got '1' \(str\)"]),
        ({"initial_learning_rate": True}, TypeError, ["initial_learning_rate must be", r"got True \(bool\)"]),
        ({"initial_learning_rate": 1j}, TypeError, ["initial_learning_rate must be", r"1j \(complex\)"]),
        ({"initial_learning_rate": None}, TypeError, ["initial_learning_rate must be", r"None \(NoneType\)"]),
        (
            {"initial_learning_rate": jnp.ones(2)},
            TypeError,
            ["initial_learning_rate must be", r"an array of shape \(2,\)"],
        ),
        # The meta-learning rate α.
        (
            {"meta_learning_rate": -1e-3},
            ValueError,
            [r"meta_learning_rate must be a number in \[0, ∞\)", r"got -0\.001"],
        ),
        ({"meta_learning_rate": -1e-3}, ValueError, ["0 keeps G as it starts, which is momentum SGD"]),
        ({"meta_learning_rate": jnp.nan}, ValueError, ["meta_learning_rate must be a number", "got nan"]),
        (
            {"meta_learning_rate": [1e-3]},
            TypeError,
            ["meta_learning_rate must be a number", r"got \[0\.001\] \(list\)"],
        ),
        # The momentum β.
        ({"momentum": 1.0}, ValueError, [r"momentum must be a number in \[0, 1\)", r"got 1\.0"]),
        ({"momentum": -0.1}, ValueError, [r"momentum must be a number in \[0, 1\)", r"got -0\.1"]),
        ({"momentum": np.float32("nan")}, ValueError, [r"momentum must be a number in \[0, 1\)", "got nan"]),
        ({"momentum": lambda t: 0.9}, TypeError, [r"momentum must be a number in \[0, 1\)", "function"]),
        # The integers N, k, ñ.
        ({"depth": -1}, ValueError, ["depth must be an integer of at least 0", "got -1"]),
        ({"depth": 2.0}, TypeError, ["depth must be an integer of at least 0", r"got 2\.0 \(float\)"]),
        ({"depth": jnp.asarray(2.0)}, TypeError, ["depth must be an integer of at least 0", "got Array"]),
        ({"depth": None}, TypeError, ["depth must be an integer of at least 0", r"got None"]),
        ({"block_size": 0}, ValueError, ["block_size must be an integer of at least 1", "got 0"]),
        ({"block_size": "4"}, TypeError, ["block_size must be an integer of at least 1", r"got '4' \(str\)"]),
        ({"block_size": True}, TypeError, ["block_size must be an integer of at least 1", r"got True \(bool\)"]),
        ({"hidden_size": 10}, ValueError, [r"hidden_size must be a multiple of block_size \(here 4\)", "got 10", "12"]),
        ({"hidden_size": 0}, ValueError, ["hidden_size must be an integer of at least 1", "got 0"]),
        ({"hidden_size": 8.0}, TypeError, ["hidden_size must be an integer of at least 1", r"got 8\.0 \(float\)"]),
        # The seed.
        ({"seed": -1}, ValueError, ["seed must be an integer of at least 0", "JAX key", "got -1"]),
        ({"seed": 0.5}, TypeError, ["seed must be an integer of at least 0", r"got 0\.5 \(float\)"]),
        ({"seed": None}, TypeError, ["seed must be an integer of at least 0", "JAX key", "got None"]),
        ({"seed": 2**70}, ValueError, ["seed must be an int from 0 to 2⁶³ − 1", str(2**70)]),
        ({"seed": jax.random.split(jax.random.key(0), 2)}, ValueError, ["seed must be.*one JAX key", r"shape \(2,\)"]),
        # The dtype.
        ({"dtype": jnp.int32}, TypeError, ["dtype must be a floating dtype", "got int32"]),
        ({"dtype": jnp.complex64}, TypeError, ["dtype must be a floating dtype", "got complex64"]),
        ({"dtype": "float33"}, TypeError, ["dtype must be a floating dtype", "got 'float33'"]),
        ({"dtype": jnp.ones(2)}, TypeError, ["dtype must be a floating dtype", "got an array", "static_args"]),
        # The meta-optimizer and the operator.
        (
            {"meta_optimizer": optax.adam},
            TypeError,
            ["meta_optimizer must be an optax gradient transf", "function adam"],
        ),
        ({"meta_optimizer": 1e-3}, TypeError, ["meta_optimizer must be", r"got 0\.001 \(float\)"]),
        (
            {"meta_optimizer": optax.sgd(0.1), "meta_learning_rate": 0.1},
            ValueError,
            ["meta_learning_rate=0.1 is the rate of the default", "Give the rate to the meta-optimizer"],
        ),
        (
            {"meta_optimizer": optax.sgd(0.1), "meta_learning_rate": lambda t: 0.1},
            ValueError,
            ["meta_learning_rate=a schedule", "Give the rate to the meta-optimizer"],
        ),
        (
            {"operator": "diagonal"},
            TypeError,
            ["operator must be an instance", "init, apply, hypergr", "got 'diagonal'"],
        ),
        (
            {"operator": operators.Diagonal},
            TypeError,
            ["operator must be an instance", "the class Diagonal, not an inst"],
        ),
        ({"operator": DIAGONAL, "depth": 3}, ValueError, ["depth=3 describes the default operator", "Diagonal"]),
        ({"operator": DIAGONAL, "hidden_size": 8}, ValueError, ["hidden_size=8 describes the default operator"]),
    ],
)
def test_arguments(arguments, error, parts):
    with refused(error, *parts):
        lodo.lodo(**arguments)


@pytest.mark.parametrize(
    ("params", "error", "parts"),
    [
        ({"w": X, "i": jnp.arange(3)}, TypeError, [r"params\['i'\] has dtype int", "real floating", "optax.masked"]),
        ({"w": X, "b": jnp.ones(3, bool)}, TypeError, [r"params\['b'\] has dtype bool", "real floating"]),
        ([X, X + 1j], TypeError, [r"params\[1\] has dtype complex128", "real and imaginary parts"]),
        ({"w": 3}, TypeError, [r"params\['w'\] has dtype int"]),
        ({"w": "text"}, TypeError, [r"params\['w'\] has dtype <U4"]),
        ({"k": jax.random.key(0)}, TypeError, [r"params\['k'\] has dtype key"]),
    ],
)
def test_parameters(params, error, parts):
    with refused(error, *parts):
        lodo.lodo(depth=2).init(params)


def test_a_hidden_size_that_does_not_fit():
    with refused(ValueError, "hidden_size must be at least the number of parameters n = 9", "got 8", "would be 20"):
        lodo.lodo(depth=2, hidden_size=8).init(jnp.ones(9))
    with refused(ValueError, "hidden_size must be at most 2147483647", "got 4000000004", "optax.partition"):
        jax.eval_shape(lodo.lodo(depth=2).init, jax.ShapeDtypeStruct((2 * 10**9,), jnp.float32))
    with refused(ValueError, "hidden_size must be at most 2147483647"):
        jax.eval_shape(lodo.lodo(operator=operators.Residuals(2)).init, jax.ShapeDtypeStruct((2 * 10**9,), jnp.float32))


@pytest.mark.parametrize(
    ("updates", "error", "parts"),
    [
        ({"a": X}, ValueError, ["updates has another structure than the tree given to init", "1 leaf", "2 leaves"]),
        ({"a": X, "b": None}, ValueError, ["updates has another structure", "given 1 leaf", "expected 2 leaves"]),
        ({"a": X, "b": jnp.ones(2)}, ValueError, [r"updates\['b'\] has shape \(2,\)", r"has \(2, 2\) there"]),
        ({"a": X, "b": jnp.ones((2, 2), int)}, TypeError, [r"updates\['b'\] has dtype int64"]),
        ({"a": X, "b": jnp.ones((2, 2), complex)}, TypeError, [r"updates\['b'\] has dtype complex128"]),
        ({}, ValueError, ["updates has another structure", "given 0 leaves", "expected 2 leaves"]),
    ],
)
def test_an_update_tree_that_differs(updates, error, parts):
    optimizer = lodo.lodo(operator=DIAGONAL)
    state = optimizer.init({"a": X, "b": jnp.ones((2, 2))})
    with refused(error, *parts):
        optimizer.update(updates, state)
    with refused(error, *parts):  # under jit as well, shapes being known there
        jax.jit(lambda: optimizer.update(updates, state))()


OTHERS = {
    "depth": (lodo.lodo(depth=2), lodo.lodo(depth=3), ["its theta", r"\[2,4,4,2\]", r"\[3,4,4,2\]"]),
    "block size": (lodo.lodo(depth=2), lodo.lodo(depth=2, block_size=2), ["its theta"]),
    "hidden size": (lodo.lodo(depth=2), lodo.lodo(depth=2, hidden_size=4), ["its theta"]),
    "operator": (lodo.lodo(depth=2), lodo.lodo(operator=DIAGONAL), ["its theta", r"Diagonal\(\) with n = 3"]),
    "diagonal, scalar": (lodo.lodo(operator=DIAGONAL), lodo.lodo(operator=operators.Scalar()), ["its theta"]),
    "meta-optimizer": (
        lodo.lodo(operator=DIAGONAL),
        lodo.lodo(operator=DIAGONAL, meta_optimizer=optax.sgd(0.1)),
        ["its meta_state"],
    ),
    "dtype": (
        lodo.lodo(operator=DIAGONAL),
        lodo.lodo(operator=DIAGONAL, dtype=jnp.float32),
        ["it is in float64, and dtype=float32 was asked for"],
    ),
}


@pytest.mark.parametrize(("made_by", "used_by", "parts"), OTHERS.values(), ids=OTHERS.keys())
def test_a_state_of_another_configuration(made_by, used_by, parts):
    state = made_by.init(X)
    made_by.update(X, state)
    for update in (used_by.update, jax.jit(used_by.update)):
        with refused(ValueError, "This state was made by another configuration", *parts, "new state"):
            update(X, state)


def test_a_state_of_something_else():
    optimizer = lodo.lodo(operator=DIAGONAL)
    chained = optax.chain(optax.identity(), optimizer).init(X)
    with refused(TypeError, "needs the LodoState that its init made; got tuple", "optax.chain"):
        optimizer.update(X, chained)
    with refused(TypeError, "got dict"):  # what a checkpoint comes back as when no target is given
        optimizer.update(X, optimizer.init(X)._asdict())


def test_a_state_of_several_runs():
    optimizer = lodo.lodo(operator=DIAGONAL)
    states = jax.vmap(lambda _: optimizer.init(X))(jnp.arange(2))
    with refused(ValueError, r"updates has shape \(3,\)", r"\(2, 3\)"):
        optimizer.update(X, states)
    with refused(ValueError, "another configuration"):
        optimizer.update(jnp.ones((2, 3)), states)


def test_a_schedule_that_is_no_scalar():
    for arguments in ({"initial_learning_rate": lambda t: jnp.ones(3)}, {"meta_learning_rate": lambda t: jnp.ones(3)}):
        optimizer = lodo.lodo(**arguments, operator=DIAGONAL)
        with refused(ValueError, "schedule of a rate must return a scalar", r"shape \(3,\)"):
            optimizer.update(X, optimizer.init(X))


def test_traced_values_pass_the_checks_of_numbers_and_not_those_of_types():
    def start(rate):
        return lodo.lodo(rate, rate, rate, operator=DIAGONAL).init(X).initial_learning_rate

    # Numbers that would be refused if they could be seen.
    np.testing.assert_array_equal(jax.jit(start)(-1.0), -1.0)
    with refused(TypeError, "initial_learning_rate must be a number", r"shape \(2,\)"):
        jax.jit(start)(jnp.ones(2))
    with refused(TypeError, "initial_learning_rate must be a number", "complex"):
        jax.jit(start)(1j)
    with refused(TypeError, "depth must be an integer of at least 0", "a traced array of shape .*float64"):
        jax.jit(lambda depth: lodo.lodo(depth=depth).init(X).theta)(2.0)
    with refused(TypeError, "decides array shapes by 'depth', and got traced values", "static_args"):
        jax.jit(lambda depth: lodo.lodo(depth=depth).init(X).theta)(2)
