"""A tree of arrays as one vector and back, on whatever devices the arrays lie.

An operator mixes all parameters, so that they meet in one vector. Where the leaves lie on a mesh with axes of the type
Explicit (``jax.make_mesh``'s default), an array's type says how it is dealt out over them, and JAX refuses to guess for
a result: the vector, and all that is computed from it, is whole on every device, and a result goes back to where the
leaf lies that it belongs to. Inside ``jax.shard_map`` an array's type says along which axes devices may hold different
numbers, and what is carried through a loop has to start as it ends. Axes of the type Auto are left to the compiler.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


class Place(NamedTuple):
    """Where arrays that meet in one computation lie."""

    mesh: Any = None  # the mesh with Explicit axes that they share, or None
    varying: frozenset[str] = frozenset()  # axes of a surrounding shard_map along which they may differ


def place_of(*trees: Any) -> Place:
    """Where the leaves of all trees can meet.

    Raises:
      ValueError: they lie on two different meshes with Explicit axes.

    >>> place_of(jnp.ones(3), {"w": np.ones(2)})
    Place(mesh=None, varying=frozenset())
    """
    mesh, varying = None, frozenset[str]()
    for leaf in jax.tree.leaves(trees):
        kind: Any = jax.typeof(leaf)
        varying |= _varying(kind)
        if not _is_explicit(kind.sharding.mesh):
            continue
        # Outside of jit an array's own sharding knows the devices, which its type does not.
        given = kind.sharding.mesh if _is_abstract(leaf) else leaf.sharding.mesh
        if mesh is not None and mesh.abstract_mesh != given.abstract_mesh:
            raise ValueError(
                "lodo computes with all parameters at once, so that they, their gradients and the optimizer's state "
                f"have to lie on one mesh; got arrays on {mesh.abstract_mesh} and on {given.abstract_mesh}. Move them "
                "to one mesh with jax.device_put, or optimize them in groups with optax.partition."
            )
        if mesh is None or _is_abstract(leaf):
            mesh = given
    return Place(mesh, varying)


def whole(tree: Tree, place: Place) -> Tree:
    """The tree, each of its arrays whole on every device of the place; elsewhere untouched.

    >>> whole({"w": 1.0}, Place())
    {'w': 1.0}
    """
    laid: Tree = jax.tree.map(lambda leaf: _laid(leaf, PartitionSpec(), place), tree)
    return laid


def zeros(shape: tuple[int, ...], dtype: Any, place: Place) -> jax.Array:
    """Zeros at a place, whole on every device.

    >>> zeros((2,), jnp.float32, Place()).tolist()
    [0.0, 0.0]
    """
    made: jax.Array = _laid(jnp.zeros(shape, dtype), PartitionSpec(), place)
    return made


def zeros_like(tree: Any, dtype: Any, place: Place | None = None) -> Any:
    """Zeros of a dtype, each laid out as the leaf of the tree is; the place is that of the tree unless given.

    >>> zeros_like({"w": np.ones(2)}, jnp.float16)["w"].dtype
    dtype('float16')
    """
    place = place or place_of(tree)
    return jax.tree.map(lambda leaf: _laid(jnp.zeros_like(leaf, dtype), _spec(leaf), place), tree)


def ravel(tree: Any, dtype: Any = None, place: Place | None = None) -> jax.Array:
    """All leaves in one new vector [n], leaf after leaf, in row-major order, cast to ``dtype`` where one is given.

    >>> ravel({"w": np.ones((1, 2), np.float32), "v": jnp.zeros(1)}).tolist()
    [0.0, 1.0, 1.0]
    """
    place = place or place_of(tree)
    leaves = [jnp.ravel(_laid(leaf, PartitionSpec(), place)) for leaf in jax.tree.leaves(tree)]
    leaves = [leaf if dtype is None else leaf.astype(dtype) for leaf in leaves]
    if not leaves:
        return jnp.zeros(0, dtype)
    # One leaf would be handed through, and a caller's array be a part of a state that is donated.
    return jnp.concatenate(leaves) if len(leaves) > 1 else jnp.array(leaves[0], copy=True)


def with_numbers(tree: Any) -> Any:
    """The tree, with zeros for leaves that are shapes only: who inits a state from shapes wants its form.

    >>> with_numbers({"w": jax.ShapeDtypeStruct((2,), jnp.float32)})["w"].tolist()
    [0.0, 0.0]
    """
    return jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf, tree
    )


def unravel(vector: jax.Array, like: Any) -> Any:
    """The vector [n] as a tree with the structure, shapes, dtypes and layout of ``like``.

    >>> unravel(jnp.arange(3.0), {"w": np.ones((1, 2), np.float32), "v": jnp.zeros(1)})["w"].tolist()
    [[1.0, 2.0]]
    """
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([np.size(leaf) for leaf in leaves], dtype=int)[:-1].tolist()
    pieces = [
        piece.reshape(np.shape(leaf)).astype(jnp.result_type(leaf))
        for piece, leaf in zip(jnp.split(vector, ends), leaves)
    ]
    return laid_like(jax.tree.unflatten(structure, pieces), like)


def laid_like(tree: Any, like: Any) -> Any:
    """The tree, each array laid out as the leaf of the other tree is.

    >>> laid_like({"w": 1.0}, {"w": 2.0})
    {'w': 1.0}
    """
    place = place_of(tree, like)
    return jax.tree.map(lambda leaf, other: _laid(leaf, _spec(other), place), tree, like)


def _laid(leaf: Any, spec: PartitionSpec, place: Place) -> Any:
    """The array laid out over the place's mesh as told, and of the type that may differ along its axes."""
    if place.mesh is not None:
        kind: Any = jax.typeof(leaf)
        wanted = NamedSharding(place.mesh, spec)
        if not _is_explicit(kind.sharding.mesh) or kind.sharding.spec != _pad(spec, len(kind.shape)):
            # Outside of jit JAX 0.7.2 reshards within jax.set_mesh only.
            put: Any = jax.device_put if isinstance(place.mesh, Mesh) else jax.sharding.reshard
            leaf = put(leaf, wanted)
    missing = tuple(sorted(place.varying - _varying(jax.typeof(leaf)))) if place.varying else ()
    if not missing:
        return leaf
    lax: Any = jax.lax  # in which pcast has replaced pvary
    return lax.pcast(leaf, missing, to="varying") if hasattr(lax, "pcast") else lax.pvary(leaf, missing)


def _spec(leaf: Any) -> PartitionSpec:
    """How an array is dealt out over a mesh's Explicit axes; whole where it is on none."""
    sharding: Any = jax.typeof(leaf).sharding
    return sharding.spec if _is_explicit(sharding.mesh) else PartitionSpec()


def _pad(spec: PartitionSpec, rank: int) -> PartitionSpec:
    return PartitionSpec(*spec, *[None] * (rank - len(spec)))


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types


def _is_abstract(leaf: Any) -> bool:
    """Whether it is a value under transformation, or a description, either without devices."""
    return isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)


def _varying(kind: Any) -> frozenset[str]:
    """Along which axes of a surrounding shard_map an array of that type may differ."""
    varying: frozenset[str] = kind.mat.varying if hasattr(kind, "mat") else kind.vma
    return varying
