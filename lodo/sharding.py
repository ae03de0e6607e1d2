"""LODO over several devices: each holds 1/D of θ, of its moments and of the permutations, and computes with its own.

What is exchanged in a step are activations: in each of N layers, going up and down for the hypergradient's two vectors
and for the step's one, every device sends about ñ/D numbers a vector. The step itself, n numbers, is
gathered on all. θ and its moments never move. The parameters,
their gradient and the momentum (n numbers each) are replicated.

    mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
    optimizer = lodo.lodo(operator=lodo.operators.ShardedBlockPermutation(mesh))
    state = lodo.sharding.initialize(optimizer, params, mesh)

The mesh may have the devices of one process or, after ``jax.distributed.initialize``, of many: every process runs the
same program. :func:`lodo.diagnostics.cost_table` with ``devices=`` says what each device will hold and send.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lodo._state import LodoState
from lodo.operators._routes import Routes, capacity, check_spread, is_spread
from lodo.operators.base import Permutations
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.rolls import Rolls
from lodo.operators.sharded import ShardedBlockPermutation, check_divisible, refused, routes_of


def shardings(state: optax.OptState | LodoState, mesh: Mesh, axis: str = "blocks") -> optax.OptState:
    """Where each array of a state belongs, for ``jax.jit``'s ``in_shardings`` and ``out_shardings``.

    Args:
      state: an optax state, concrete or abstract (``jax.eval_shape(optimizer.init, params)``), with any number of
        :class:`lodo.LodoState` of sharded operators in it.
      mesh: the operator's mesh.
      axis: the operator's axis.

    Returns:
      The same tree with a ``jax.sharding.NamedSharding`` for each array: θ, what the meta-optimizer keeps in θ's
      form, and the routes along their last axis, the rest replicated.

    Raises:
      ValueError: a LodoState in it was not made by a sharded operator (:func:`shard_state` converts one), or is kept in
        a form that cannot be dealt out by blocks (storage in "int8" or "int16", where neighbours share exponents).

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
      >>> optimizer = lodo.lodo(operator=lodo.operators.ShardedBlockPermutation(mesh))
      >>> where = shardings(jax.eval_shape(optimizer.init, jnp.zeros(5)), mesh)
      >>> tuple(where.theta.spec), tuple(where.momentum.spec), where.meta_state.mu == where.theta
      ((None, None, None, 'blocks'), (), True)
    """

    def spread(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*[None] * (len(leaf.shape) - 1), axis))

    def whole(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), tree)

    def of_state(node: LodoState) -> LodoState:
        if not isinstance(node.fixed, Routes):
            raise ValueError(
                f"This state's operator is not a sharded one (its fixed arrays are {type(node.fixed).__name__}). Make "
                "it with operator=lodo.operators.ShardedBlockPermutation(mesh), or convert it with "
                "lodo.sharding.shard_state."
            )
        blocks = _weights(node).shape[-1]
        check_spread((node.theta, node.meta_state), blocks)

        def dealt_out(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: spread(leaf) if is_spread(leaf, blocks) else whole(leaf), tree)

        rest: LodoState = jax.tree.map(whole, node._replace(theta=(), fixed=(), meta_state=()))
        return rest._replace(
            theta=dealt_out(node.theta), fixed=jax.tree.map(spread, node.fixed), meta_state=dealt_out(node.meta_state)
        )

    return _map_states(of_state, whole, state)


def initialize(
    optimizer: optax.GradientTransformation, params: optax.Params, mesh: Mesh, axis: str = "blocks"
) -> optax.OptState:
    """``optimizer.init(params)`` with every array made where it belongs: no device ever holds the whole of θ.

    Args:
      optimizer: ``lodo.lodo(operator=ShardedBlockPermutation(mesh, axis, …))``, or a chain with it.
      params: the parameters, the same in every process.
      mesh: the operator's mesh.
      axis: the operator's axis.

    Returns:
      The optimizer's state.

    Raises:
      TypeError, ValueError: as :func:`lodo.lodo` and its ``init``, and as :func:`shardings`.
      RuntimeError: see :class:`lodo.operators.ShardedBlockPermutation`.

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
      >>> optimizer = lodo.lodo(operator=lodo.operators.ShardedBlockPermutation(mesh, depth=4))
      >>> state = initialize(optimizer, jnp.zeros(100), mesh)
      >>> part = state.theta.addressable_shards[0].data
      >>> state.theta.shape[:3], part.nbytes * jax.device_count() == state.theta.nbytes
      ((4, 4, 4), True)
    """
    where = shardings(jax.eval_shape(optimizer.init, params), mesh, axis)
    state = jax.jit(optimizer.init, out_shardings=where)(params)
    # Under jit what does not fit cannot be raised; it shows as NaN in all of θ.
    for node in _states(state):
        for leaf in jax.tree.leaves(node.theta):
            refused(leaf, _any_nan(leaf))
    return state


def shard_state(state: optax.OptState | LodoState, operator: ShardedBlockPermutation) -> optax.OptState:
    """A state that was made on one device, spread over the operator's, to go on from where it was.

    Args:
      state: an optax state with one or more LodoStates of :class:`lodo.operators.BlockPermutation`; in several
        processes, the same in each.
      operator: its devices, and the depth and block size of the state's operator. What its hidden size is does not
        matter: the state's is kept.

    Returns:
      The state for ``lodo.lodo(operator=ShardedBlockPermutation(mesh, axis, depth, block_size, hidden_size))`` with the
      hidden size ñ that the state has. Its steps are those of the state that was given, up to rounding.

    Raises:
      ValueError: a LodoState of another operator, depth or block size; a hidden size that the devices cannot share out.
      RuntimeError: the permutations were not random ones, see :class:`lodo.operators.ShardedBlockPermutation`.

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> one = lodo.lodo(hidden_size=32).init(jnp.zeros(10))
      >>> mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
      >>> many = shard_state(one, lodo.operators.ShardedBlockPermutation(mesh, hidden_size=32))
      >>> type(many.fixed).__name__, bool((many.theta == one.theta).all())
      ('Routes', True)
    """

    def of_state(node: LodoState) -> LodoState:
        _check_convertible(node, Permutations, operator)
        check_divisible(node.fixed.forward.shape[-1], operator.block_size, operator.devices)
        node = node._replace(inputs=None)  # which the sharded operator does not keep
        whole = NamedSharding(operator.mesh, PartitionSpec())
        forward, inverse = (_place(indices, whole) for indices in node.fixed)
        routes, overflow = routes_of(operator, forward, inverse)
        refused(jnp.zeros(()), overflow)
        where: Any = shardings(node._replace(fixed=routes), operator.mesh, operator.axis)
        placed = jax.tree.map(_place, node._replace(fixed=()), where._replace(fixed=()))
        result: LodoState = placed._replace(fixed=routes)
        return result

    return _map_states(of_state, _copy, state)


def gather_state(state: optax.OptState | LodoState, operator: ShardedBlockPermutation) -> optax.OptState:
    """A sharded state as one that ``lodo.lodo()`` goes on from on one device, for diagnostics and checkpoints too.

    Args:
      state: an optax state with one or more LodoStates of the sharded operator.
      operator: the operator that made it.

    Returns:
      The state of :class:`lodo.operators.BlockPermutation` with the same hidden size, as NumPy arrays: all of θ and its
      moments in the host's memory, of every process. Its ``inputs`` are None, as the sharded operator keeps none: the
      optimizer goes on without them, a little slower than from a state that it initialized itself.

    Raises:
      ValueError: a LodoState of another operator.

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
      >>> operator = lodo.operators.ShardedBlockPermutation(mesh, hidden_size=32)
      >>> state = initialize(lodo.lodo(operator=operator), jnp.zeros(10), mesh)
      >>> one, same = gather_state(state, operator), lodo.lodo(hidden_size=32).init(jnp.zeros(10))
      >>> bool((one.fixed.forward == same.fixed.forward).all())
      True
    """

    def of_state(node: LodoState) -> LodoState:
        _check_convertible(node, Routes, operator)
        node = jax.tree.map(_gather, node)
        return node._replace(fixed=_permutations(node.fixed, operator))

    return _map_states(of_state, lambda leaf: _gather(leaf) if isinstance(leaf, jax.Array) else leaf, state)


def _map_states(of_state: Any, otherwise: Any, state: Any) -> Any:
    """A tree with ``of_state`` of its LodoStates and ``otherwise`` of its other leaves."""
    return jax.tree.map(
        lambda node: of_state(node) if isinstance(node, LodoState) else otherwise(node),
        state,
        is_leaf=lambda node: isinstance(node, LodoState),
    )


def _states(state: Any) -> list[LodoState]:
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, LodoState))
    return [leaf for leaf in leaves if isinstance(leaf, LodoState)]


def _check_convertible(node: LodoState, form: type, operator: ShardedBlockPermutation) -> None:
    if not isinstance(operator, ShardedBlockPermutation):
        raise TypeError(f"operator must be a lodo.operators.ShardedBlockPermutation; got {operator!r}.")
    expected = {Permutations: BlockPermutation, Routes: ShardedBlockPermutation}[form].__name__
    if isinstance(node.fixed, Rolls):
        raise ValueError(
            "This state's permutations are rolled; what can be spread over devices are uniform ones. Start it with "
            "lodo.operators.BlockPermutation(permutations='uniform'), the default."
        )
    if not isinstance(node.fixed, form):
        raise ValueError(
            f"This state was not made by lodo.operators.{expected}: its fixed arrays are {type(node.fixed).__name__}."
        )
    depth, block_size = _weights(node).shape[:2]
    if (depth, block_size) != (operator.depth, operator.block_size):
        raise ValueError(
            f"This state has depth={depth} and block_size={block_size}; the operator has depth={operator.depth} and "
            f"block_size={operator.block_size}. Give the operator the state's."
        )
    if isinstance(node.fixed, Routes):
        hidden = node.fixed.enter.shape[-1]
        slots = operator.devices**2 * capacity(hidden, operator.devices, depth)
        if hidden % (block_size * operator.devices) or node.fixed.leave.shape[-1] != slots:
            raise ValueError(
                f"This state's routes are not for {operator.devices} devices. Give the operator that made it."
            )


def _weights(node: LodoState) -> Any:
    """The array of θ that has its shape [N, k, k, ñ/k], whatever form θ is kept in."""
    return next(leaf for leaf in jax.tree.leaves(node.theta) if leaf.ndim == 4)


@jax.jit
def _any_nan(theta: jax.Array) -> jax.Array:
    return jnp.any(jnp.isnan(theta))


def _copy(leaf: Any) -> Any:
    return jnp.array(leaf, copy=True) if isinstance(leaf, jax.Array) else leaf


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, spread as told: each process hands over what its own devices hold."""
    if sharding.is_fully_addressable:
        # A copy, as a device that has the array already would share it, and donating one state take it from the other.
        result: jax.Array = jax.device_put(_copy(leaf), sharding)
        return result
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _gather(leaf: jax.Array) -> np.ndarray:
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _permutations(routes: Any, operator: ShardedBlockPermutation) -> Any:
    """What the routes were made from; NumPy arrays to NumPy arrays."""
    devices, k = operator.devices, operator.block_size
    depth, hidden = routes.enter.shape
    own, each = hidden // devices, hidden // k // devices
    leave = routes.leave.reshape(depth, devices, devices, -1)  # sender, receiver, place
    slots = leave.shape[-1]
    enter = routes.enter.reshape(depth, devices, own)
    receiver = np.arange(devices)[None, :, None]
    sender, place = enter // slots, enter % slots
    there = leave[np.arange(depth)[:, None, None], sender, receiver, place]

    def everywhere(device: np.ndarray, here: np.ndarray) -> np.ndarray:
        """The number among all coordinates of one that a device numbers by itself."""
        result: np.ndarray = here // each * (hidden // k) + device * each + here % each
        return result

    forward: Any = np.empty((depth, hidden), np.int32)
    mine = np.broadcast_to(everywhere(receiver, np.arange(own)[None, None, :]), enter.shape)
    np.put_along_axis(forward, mine.reshape(depth, hidden), everywhere(sender, there).reshape(depth, hidden), axis=1)
    inverse: Any = np.empty_like(forward)
    np.put_along_axis(inverse, forward, np.broadcast_to(np.arange(hidden, dtype=np.int32), forward.shape), axis=1)
    return Permutations(forward, inverse)
