"""LODO over several devices: each holds 1/D of θ, of its moments and of the permutations, and computes with its own.

What is exchanged in a step are activations: in each of N layers, going up and down for the hypergradient's two vectors
and for the step's one, every device sends about ñ/D numbers a vector. The step itself, n numbers, is
gathered on all. θ and its moments never move. The parameters,
their gradient and the momentum (n numbers each) are replicated.

    mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
    optimizer = lodo.lodo(operator=lodo.operators.ShardedBlockPermutation(mesh))
    state = lodo.sharding.initialize(optimizer, params, mesh)

:func:`lodo.rlodo` is spread in the same way, by ``ShardedBlockPermutation(mesh, depth=32, padding=False)``: each device
holds 1/D of θ, of its mean squares and of the permutations, and whole the five vectors that are like the parameters.

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

from lodo._state import LodoState, RlodoState
from lodo.operators._routes import Routes, check_spread, is_spread
from lodo.operators.base import Permutations
from lodo.operators.block_permutation import BlockPermutation
from lodo.operators.rolls import Rolls
from lodo.operators.sharded import (
    ShardedBlockPermutation,
    check_divisible,
    check_mesh_axis,
    refused,
    routes_of,
    with_identities,
)

Node = LodoState | RlodoState


def shardings(state: optax.OptState | Node, mesh: Mesh, axis: str = "blocks") -> optax.OptState:
    """Where each array of a state belongs, for ``jax.jit``'s ``in_shardings`` and ``out_shardings``.

    Args:
      state: an optax state, concrete or abstract (``jax.eval_shape(optimizer.init, params)``), with any number of
        :class:`lodo.LodoState` and :class:`lodo.RlodoState` of sharded operators in it.
      mesh: the operator's mesh.
      axis: the operator's axis.

    Returns:
      The same tree with a ``jax.sharding.NamedSharding`` for each array: θ, what the meta-optimizer keeps in θ's
      form, and the routes along their last axis, the rest replicated.

    Raises:
      TypeError: no mesh.
      ValueError: an axis that the mesh does not have; a LodoState in it that was not made by a sharded operator
        (:func:`shard_state` converts one), or is kept in a form that cannot be dealt out by blocks (storage in "int8"
        or "int16", where neighbours share exponents).

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
      >>> optimizer = lodo.lodo(operator=lodo.operators.ShardedBlockPermutation(mesh))
      >>> where = shardings(jax.eval_shape(optimizer.init, jnp.zeros(5)), mesh)
      >>> tuple(where.theta.spec), tuple(where.momentum.spec), where.meta_state.mu == where.theta
      ((None, None, None, 'blocks'), (), True)
    """

    check_mesh_axis(mesh, axis)

    def spread(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*[None] * (len(leaf.shape) - 1), axis))

    def whole(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), tree)

    def of_state(node: Node) -> Node:
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

        nothing: dict[str, Any] = {"theta": (), "fixed": (), "meta_state": ()}
        rest: Node = jax.tree.map(whole, node._replace(**nothing))
        return rest._replace(
            theta=dealt_out(node.theta), fixed=jax.tree.map(spread, node.fixed), meta_state=dealt_out(node.meta_state)
        )

    return _map_states(of_state, whole, state)


def initialize(
    optimizer: optax.GradientTransformation, params: optax.Params, mesh: Mesh, axis: str = "blocks"
) -> optax.OptState:
    """``optimizer.init(params)`` with every array made where it belongs: no device ever holds the whole of θ.

    Args:
      optimizer: ``lodo.lodo(operator=ShardedBlockPermutation(mesh, axis, …))``, or ``lodo.rlodo`` of one without
        padding, or a chain with it.
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


def shard_state(state: optax.OptState | Node, operator: ShardedBlockPermutation) -> optax.OptState:
    """A state that was made on one device, spread over the operator's, to go on from where it was.

    Args:
      state: an optax state with one or more LodoStates or RlodoStates of :class:`lodo.operators.BlockPermutation`; in
        several processes, the same in each.
      operator: its devices, and the depth, block size and padding of the state's operator. What its hidden size is does
        not matter: the state's is kept.

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

    def of_state(node: Node) -> Node:
        _check_convertible(node, Permutations, operator)
        size, hidden = _size(node), node.fixed.forward.shape[-1]
        _check_padding(size, hidden, operator)
        if operator.padding:
            check_divisible(hidden, operator.block_size, operator.devices)
        check_spread((node.theta, node.meta_state), hidden // operator.block_size)
        if isinstance(node, LodoState):
            node = node._replace(inputs=None)  # which the sharded operator does not keep
        blocks = (hidden if operator.padding else operator._hidden(size)) // operator.block_size
        node = node._replace(
            theta=jax.tree.map(lambda leaf: with_identities(operator, jnp.asarray(leaf), size), node.theta),
            meta_state=_with_blocks(node.meta_state, hidden // operator.block_size, blocks),
        )
        routes, overflow = routes_of(
            operator, size, _place(node.fixed.forward, NamedSharding(operator.mesh, PartitionSpec()))
        )
        refused(jnp.zeros(()), overflow)
        where: Any = shardings(node._replace(fixed=routes), operator.mesh, operator.axis)
        placed = jax.tree.map(_place, node._replace(fixed=()), where._replace(fixed=()))
        result: Node = placed._replace(fixed=routes)
        return result

    return _map_states(of_state, _copy, state)


def gather_state(state: optax.OptState | Node, operator: ShardedBlockPermutation) -> optax.OptState:
    """A sharded state as one that ``lodo.lodo()`` goes on from on one device, for diagnostics and checkpoints too.

    Args:
      state: an optax state with one or more LodoStates or RlodoStates of the sharded operator.
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

    def of_state(node: Node) -> Node:
        _check_convertible(node, Routes, operator)
        node = jax.tree.map(_gather, node)
        forward = _permutations(node.fixed, operator)
        blocks = forward.shape[-1] // operator.block_size
        own = blocks if operator.padding else -(-_size(node) // operator.block_size)
        return node._replace(
            theta=_with_blocks(node.theta, blocks, own),
            meta_state=_with_blocks(node.meta_state, blocks, own),
            fixed=_without_places(forward, own, blocks),
        )

    return _map_states(of_state, lambda leaf: _gather(leaf) if isinstance(leaf, jax.Array) else leaf, state)


def _map_states(of_state: Any, otherwise: Any, state: Any) -> Any:
    """A tree with ``of_state`` of its LodoStates and RlodoStates, and ``otherwise`` of its other leaves."""
    return jax.tree.map(
        lambda node: of_state(node) if isinstance(node, Node) else otherwise(node),
        state,
        is_leaf=lambda node: isinstance(node, Node),
    )


def _states(state: Any) -> list[Node]:
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Node))
    return [leaf for leaf in leaves if isinstance(leaf, Node)]


def _size(node: Node) -> int:
    """n."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(node.momentum))


def _check_padding(size: int, hidden: int, operator: ShardedBlockPermutation) -> None:
    """Refuse a state whose coordinates beyond n are not treated as the operator treats them."""
    square = hidden == -(-size // operator.block_size) * operator.block_size
    if (square and hidden > size) if operator.padding else not square:
        raise ValueError(
            f"This state has n = {size} and hidden_size = {hidden}, so that its operator was made with "
            f"padding={not operator.padding}; the sharded one has padding={operator.padding}. Give it the state's."
        )


def _with_blocks(tree: Any, blocks: int, wanted: int) -> Any:
    """A tree of which arrays with an axis of ``blocks`` are given another number of them; new ones are 0."""

    def of_leaf(leaf: Any) -> Any:
        if not is_spread(leaf, blocks):
            return leaf
        return (
            leaf[..., :wanted]
            if wanted <= blocks
            else jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, wanted - blocks)])
        )

    return jax.tree.map(of_leaf, tree)


def _check_convertible(node: Node, form: type, operator: ShardedBlockPermutation) -> None:
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
        slots = operator.devices**2 * operator.slots(_size(node), hidden)
        if hidden % (block_size * operator.devices) or node.fixed.leave.shape[-1] != slots:
            raise ValueError(
                f"This state's routes are not for {operator.devices} devices. Give the operator that made it."
            )


def _weights(node: Node) -> Any:
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
    """The permutations [N, ñ] that the routes were made from, over all blocks; NumPy arrays to NumPy arrays."""
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
    return forward


def _without_places(forward: Any, own: int, blocks: int) -> Permutations:
    """The permutations of the first ``own`` of ``blocks`` blocks, see :func:`lodo.operators._routes.with_places`."""
    kept: Any = np.array(forward.reshape(len(forward), -1, blocks)[:, :, :own]).reshape(len(forward), -1)
    # The first layer's coordinates are in the parameters' order already.
    kept[1:] = kept[1:] // blocks * own + kept[1:] % blocks
    inverse: Any = np.empty_like(kept)
    np.put_along_axis(inverse, kept, np.broadcast_to(np.arange(kept.shape[1], dtype=np.int32), kept.shape), axis=1)
    return Permutations(kept, inverse)
