"""A state of LODO saved and restored by orbax: bit by bit, and the run goes on as if it had not been interrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import lodo

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6, dtype=jnp.float32).reshape(2, 3), "b": jnp.ones(2, jnp.bfloat16)}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), lodo.lodo(0.3, depth=2, block_size=2))
update = jax.jit(OPTIMIZER.update)


def steps(params, state, count):
    for _ in range(count):
        updates, state = update(jax.tree.map(lambda p: p * p * p, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_bits_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Parameters and state after three steps, and where they were saved."""
    saved = dict(zip(("params", "state"), steps(PARAMS, OPTIMIZER.init(PARAMS), 3), strict=True))
    folder = tmp_path_factory.mktemp("orbax") / "checkpoint"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, saved)
    return saved, folder


def test_restored_bit_by_bit_and_continued(checkpoint):
    saved, folder = checkpoint
    # The target needs shapes alone: nothing is initialized to restore.
    target = jax.eval_shape(lambda: {"params": PARAMS, "state": OPTIMIZER.init(PARAMS)})
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(folder, target)
    assert_bits_equal(restored, saved)
    assert isinstance(restored["state"][1], lodo.LodoState)
    assert_bits_equal(steps(**restored, count=3), steps(**saved, count=3))


def test_a_checkpoint_of_another_configuration_is_refused(checkpoint):
    _, folder = checkpoint
    other = optax.chain(optax.clip_by_global_norm(1.0), lodo.lodo(0.3, depth=3, block_size=2))
    target = jax.eval_shape(lambda: {"params": PARAMS, "state": OPTIMIZER.init(PARAMS)})
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(folder, target)
        without_target = checkpointer.restore(folder)
    with pytest.raises(ValueError, match="This state was made by another configuration: its theta"):
        other.update(PARAMS, restored["state"])
    # Without a target orbax gives dictionaries back, which the update says that it cannot use.
    with pytest.raises(TypeError, match="needs the LodoState that its init made; got dict"):
        OPTIMIZER.update(PARAMS, without_target["state"])
