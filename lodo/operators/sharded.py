"""The paper's operator with its blocks spread over devices: θ stays where it is, activations are exchanged."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lodo._tree import place_of
from lodo._validation import check_flag, check_integer, is_traced
from lodo.operators._passes import Inputs
from lodo.operators._routes import Routes, capacity, exchange, local_routes, with_places
from lodo.operators.base import check_indexable, default_hidden_size, padded, part_of, sum_over
from lodo.operators.block_permutation import orthonormalized


@dataclass(frozen=True)
class ShardedBlockPermutation:
    """S(θ) of :class:`BlockPermutation`, each of D devices holding and computing 1/D of the blocks.

    θ [N, k, k, ñ/k] and whatever an optimizer keeps beside it are sharded along the last axis. A layer's permutation
    is one exchange among all devices, in which each sends and receives about ñ/D numbers a vector; no device ever
    holds another's part of θ, and none holds a whole hidden vector. With the same key and the same hidden size, θ₀,
    the permutations and every product are those of :class:`BlockPermutation`, up to rounding.

    The exchange sends equal parts between any two devices, a little more than a random permutation needs on average.
    That it suffices is checked when the permutations are drawn: it fails with a probability below 2⁻⁵⁰.

    Args:
      mesh: a ``jax.sharding.Mesh``, of one process or of many. Its axes must be of the type Auto, as those of
        ``jax.sharding.Mesh(devices, names)`` are. Over axes other than ``axis`` everything is replicated.
      axis: the name of the mesh's axis that has the D devices.
      depth: N, the number of layers.
      block_size: k, the side of a block.
      hidden_size: ñ, at least n and a multiple of k·D; default: that of :class:`BlockPermutation`, rounded up to a
        multiple of k·D (so that with the default a run on D devices may have another ñ than on one, and other numbers).
      padding: False: what :class:`BlockPermutation` is without padding, for any number of devices, with blocks added
        that stay the identity and that no coordinate enters, up to a multiple of D. n ≥ k.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: an axis that the mesh does not have, or of another type; a hidden size that does not divide.

    Example:
      >>> import jax, jax.numpy as jnp, lodo
      >>> mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))
      >>> operator = lodo.operators.ShardedBlockPermutation(mesh, "blocks", depth=4, hidden_size=16)
      >>> theta, fixed = operator.init(jax.random.key(0), 5, jnp.float32)
      >>> theta.shape, len(theta.addressable_shards) == jax.device_count()
      ((4, 4, 4, 4), True)
      >>> v = jnp.arange(5.0)
      >>> bool(jnp.allclose(operator.apply(theta, fixed, v), v, atol=1e-5))
      True
    """

    mesh: Mesh
    axis: str = "blocks"
    depth: int = 16
    block_size: int = 4
    hidden_size: int | None = None
    padding: bool = True

    def __post_init__(self) -> None:
        check_mesh_axis(self.mesh, self.axis)
        object.__setattr__(self, "depth", check_integer("depth", self.depth, 0))
        object.__setattr__(self, "block_size", check_integer("block_size", self.block_size, 1))
        traced = [name for name in ("depth", "block_size", "hidden_size") if is_traced(getattr(self, name))]
        if traced:
            raise TypeError(f"The sharded operator decides array shapes by {traced[0]}, and got a traced value.")
        check_flag("padding", self.padding)
        if not self.padding and self.hidden_size is not None:
            raise ValueError(
                "Without padding the hidden size is n rounded up to a multiple of block_size × devices; got "
                f"hidden_size={self.hidden_size} as well. Leave one of the two alone."
            )
        if self.hidden_size is not None:
            object.__setattr__(self, "hidden_size", check_integer("hidden_size", self.hidden_size, 1))
            check_divisible(self.hidden_size, self.block_size, self.devices)

    @property
    def devices(self) -> int:
        """D, the number of devices along the axis."""
        result: int = self.mesh.shape[self.axis]
        return result

    def init(self, key: jax.Array, size: int, dtype: jax.typing.DTypeLike) -> tuple[jax.Array, Routes]:
        """θ₀ [N, k, k, ñ/k] and the routes, each device drawing and holding its own part.

        Raises:
          RuntimeError: the permutations need larger exchanges than are provided for (see the class).
        """
        hidden = self._hidden(size)
        check_indexable(hidden)
        _check_context(jax.sharding.get_abstract_mesh())
        theta, fixed, overflow = _draw(self, key, size, hidden, jnp.dtype(dtype))
        return refused(theta, overflow), fixed

    def apply(self, theta: jax.Array, fixed: Routes, v: jax.Array) -> jax.Array:
        """S(θ) v for v [n] (or a stack of vectors, [r, n]); v and the result are the same on all devices."""
        _check_vector(v)
        result: jax.Array = _apply(self, theta, fixed, v)
        return result

    def hypergradient(self, theta: jax.Array, fixed: Routes, m: jax.Array, g: jax.Array) -> jax.Array:
        """∂⟨g, S m⟩/∂θ, [N, k, k, ñ/k], sharded as θ is; see :meth:`BlockPermutation.hypergradient`."""
        _check_vector(m, g)
        full: jax.Array = _hypergradient(self, theta, fixed, m, g)
        blocks, passed = theta.shape[-1], self.passed_blocks(theta, m.shape[-1])
        return jnp.where(jnp.arange(blocks) < blocks - passed, full, 0) if passed else full

    def through(self, theta: jax.Array, fixed: Routes, stack: jax.Array) -> Inputs:
        """What r vectors [r, n] are in the layers, sharded as θ is; see :meth:`BlockPermutation.through`."""
        _check_vector(stack)
        result: Inputs = _through(self, theta, fixed, stack)
        return result

    def passed_blocks(self, theta: jax.Array, size: int) -> int:
        """How many blocks of each layer stay the identity, the last ones, for n = ``size``; see ``padding``."""
        return 0 if self.padding else theta.shape[-1] - size // self.block_size

    def slots(self, size: int, hidden: int) -> int:
        """c, the coordinates that a pair of devices can exchange in a layer; ñ = ``hidden``."""
        return slots_for(size, hidden, self.depth, self.devices, self.padding)

    def sizes(self, size: int) -> dict[str, int]:
        """Numbers held for n parameters by all devices together, and multiplications of one application."""
        hidden = self._hidden(size)
        theta = self.depth * hidden * self.block_size
        slots = self.devices**2 * self.slots(size, hidden)
        return {"theta": theta, "fixed": 2 * self.depth * (hidden + slots), "multiplications": 2 * theta}

    def _hidden(self, size: int) -> int:
        return sharded_hidden_size(size, self.block_size, self.devices, self.hidden_size, self.padding)


def sharded_hidden_size(
    size: int, block_size: int, devices: int, given: int | None = None, padding: bool = True
) -> int:
    """ñ over D devices: the one that was given, or the usual default rounded up to a multiple of k·D.

    >>> sharded_hidden_size(100, 4, 1), sharded_hidden_size(100, 4, 8), sharded_hidden_size(100, 4, 8, padding=False)
    (204, 224, 128)
    """
    whole = block_size * devices
    if not padding:
        if size < block_size:
            raise ValueError(
                f"Without padding several devices need at least block_size = {block_size} parameters; got n = {size}. "
                "Give a smaller block_size, or use lodo.operators.BlockPermutation on one device."
            )
        return -(-size // whole) * whole
    if given is None:
        return -(-default_hidden_size(size, block_size) // whole) * whole
    check_divisible(given, block_size, devices)
    if given < size:
        raise ValueError(f"hidden_size must be at least the number of parameters n = {size}; got {given}.")
    return given


def slots_for(size: int, hidden: int, depth: int, devices: int, padding: bool) -> int:
    """c for an operator of these numbers, see :meth:`ShardedBlockPermutation.slots`."""
    # Zeros that stay where they are do so on one device, all of them perhaps.
    zeros = 0 if padding else hidden - size
    return min(capacity(hidden, devices, depth) + zeros, hidden // devices)


def exchanged_elements(size: int, hidden: int, block_size: int, depth: int, devices: int, padding: bool = True) -> int:
    """Numbers that each of D devices sends to others in a step: three vectors up and down, and the step itself.

    >>> exchanged_elements(1000, 2048, 4, 16, 1), exchanged_elements(1000, 2048, 4, 16, 8)
    (0, 70112)
    """
    blocks = hidden // block_size
    shown = -(-size // blocks) * blocks // devices
    return (devices - 1) * (3 * 2 * depth * slots_for(size, hidden, depth, devices, padding) + shown)


def check_mesh_axis(mesh: Any, axis: Any) -> None:
    """Refuse what is no mesh, or an axis that it does not have or that is not of the type Auto."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            "mesh must be a jax.sharding.Mesh such as jax.sharding.Mesh(jax.devices(), ('blocks',)); "
            f"got {mesh!r} ({type(mesh).__name__})."
        )
    if axis not in mesh.axis_names:
        raise ValueError(f"The mesh has the axes {mesh.axis_names}; got axis={axis!r}. Name one of them.")
    if any(kind != jax.sharding.AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"The mesh's axes must be of the type Auto; got {mesh.axis_types}. Make it with "
            "jax.sharding.Mesh(devices, names), or with jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))."
        )


def _check_vector(*vectors: Any) -> None:
    """Refuse vectors on a mesh with Explicit axes, which is never the operator's."""
    for mesh in (jax.sharding.get_abstract_mesh(), place_of(vectors).mesh):
        _check_context(mesh)


def _check_context(mesh: Any) -> None:
    if mesh is not None and jax.sharding.AxisType.Explicit in mesh.axis_types:
        raise ValueError(
            "lodo.operators.ShardedBlockPermutation works on a mesh whose axes are of the type Auto; got parameters "
            f"on, or a jax.set_mesh of, a mesh with the axis types {mesh.axis_types}. Make the parameters' mesh with "
            "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,)), or replicate θ with "
            "lodo.operators.BlockPermutation."
        )


def check_divisible(hidden: int, block_size: int, devices: int) -> None:
    """Refuse a hidden size whose blocks cannot be dealt out evenly.

    >>> check_divisible(224, 4, 8)
    """
    whole = block_size * devices
    if hidden % whole:
        raise ValueError(
            f"hidden_size must be a multiple of block_size × devices = {block_size} × {devices}, so that each device "
            f"has as many blocks; got {hidden}. The next multiple is {hidden + whole - hidden % whole}."
        )


def refused(theta: jax.Array, overflow: jax.Array) -> jax.Array:
    """θ, or an error where the exchanges are too small; where that is not known yet (under jit) θ turns NaN then."""
    if is_traced(overflow):
        return jnp.where(overflow, jnp.full_like(theta, jnp.nan), theta)
    if bool(overflow):
        raise RuntimeError(
            "These permutations have two devices exchange more coordinates than is provided for. For permutations "
            "that LODO draws this is next to impossible: take another seed. Others have to be spread as evenly."
        )
    return theta


@functools.partial(jax.jit, static_argnames=("form", "size", "hidden", "dtype"))
def _draw(
    form: ShardedBlockPermutation, key: jax.Array, size: int, hidden: int, dtype: Any
) -> tuple[jax.Array, Routes, jax.Array]:
    """What BlockPermutation.init draws from the same key, in parts."""
    k, depth = form.block_size, form.depth
    weights_key, permutation_key = jax.random.split(key)
    # The same numbers as those of one array [k, k, N·ñ/k], in a shape of which each device can draw its part.
    drawn_blocks = hidden // k if form.padding else -(-size // k)
    gaussian = jax.random.normal(weights_key, (k, k, depth, drawn_blocks), dtype)
    sharding = NamedSharding(form.mesh, _last(4, form.axis))
    gaussian = lax.with_sharding_constraint(gaussian, sharding)
    theta = with_identities(form, jnp.moveaxis(orthonormalized(gaussian), 2, 0), size)
    theta = lax.with_sharding_constraint(theta, sharding)

    def drawn(given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        key, layer = given
        entries = drawn_blocks * k if form.padding or size % k == 0 else size
        forward = jax.random.permutation(key, jnp.arange(entries, dtype=jnp.int32))
        if entries < drawn_blocks * k:
            forward = part_of(forward, layer == 0, k)
        return with_places(forward, layer == 0, k, hidden // k)

    layers = jax.random.split(permutation_key, depth), jnp.arange(depth)
    return theta, *_routes(form, size, hidden, drawn, layers)


def with_identities(form: ShardedBlockPermutation, theta: jax.Array, size: int) -> jax.Array:
    """Blocks [N, k, k, B], those beyond ⌊n/k⌋ the identity, as many as the devices need; themselves with padding."""
    if form.padding:
        return theta
    k, blocks = form.block_size, form._hidden(size) // form.block_size
    full = jnp.pad(theta, [(0, 0)] * 3 + [(0, blocks - theta.shape[-1])])
    return jnp.where(jnp.arange(blocks) < size // k, full, jnp.eye(k, dtype=theta.dtype)[:, :, None])


@functools.partial(jax.jit, static_argnums=(0, 1))
def routes_of(form: ShardedBlockPermutation, size: int, forward: jax.Array) -> tuple[Routes, jax.Array]:
    """The routes of permutations [N, ñ] that are there already, and whether they do not fit, []."""
    hidden = forward.shape[-1] if form.padding else form._hidden(size)

    def placed(given: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return with_places(given[0], given[1] == 0, form.block_size, hidden // form.block_size)

    return _routes(form, size, hidden, placed, (forward, jnp.arange(forward.shape[0])))


def _routes(
    form: ShardedBlockPermutation, size: int, hidden: int, permutation: Any, layers: Any
) -> tuple[Routes, jax.Array]:
    """Routes of ``permutation(layer)``, a pair of forward and inverse, for each of the layers."""
    slots = form.slots(size, hidden)

    def layer(given: Any) -> tuple[Routes, jax.Array]:
        forward, inverse = permutation(given)
        return local_routes(forward, inverse, lax.axis_index(form.axis), form.devices, form.block_size, slots)

    def local(layers: Any) -> tuple[Routes, jax.Array]:
        # Layer by layer: a device works on one whole permutation for as long as it takes to cut its part out of it.
        routes, overflow = lax.map(layer, layers)
        return routes, lax.pmax(jnp.any(overflow).astype(jnp.int32), form.axis)

    specs = (_last(2, form.axis), PartitionSpec())
    mapped = jax.shard_map(local, mesh=form.mesh, in_specs=PartitionSpec(), out_specs=specs, check_vma=False)
    routes, overflow = mapped(layers)
    return routes, overflow > 0


# With the operator as a static argument, so that a call outside of jit finds its compiled program again.
@functools.partial(jax.jit, static_argnums=0)
def _apply(form: ShardedBlockPermutation, theta: jax.Array, fixed: Routes, v: jax.Array) -> jax.Array:
    size, blocks = v.shape[-1], theta.shape[-1]
    rows = -(-size // blocks)

    def local(theta: jax.Array, fixed: Routes, part: jax.Array) -> jax.Array:
        out, _ = _up(form.axis, theta, fixed, _whole(part, theta))
        out, _ = _down(form.axis, theta, fixed, out)
        shown = out.reshape(-1, theta.shape[1], theta.shape[-1])[:, :rows]
        result: jax.Array = lax.all_gather(shown, form.axis, axis=2, tiled=True)
        return result

    out = _mapped(form, local, PartitionSpec())(theta, fixed, _rows(v, rows, blocks))
    result: jax.Array = out.reshape(-1, rows * blocks)[:, :size].reshape(v.shape)
    return result


@functools.partial(jax.jit, static_argnums=0)
def _through(form: ShardedBlockPermutation, theta: jax.Array, fixed: Routes, stack: jax.Array) -> Inputs:
    blocks = theta.shape[-1]

    def local(theta: jax.Array, fixed: Routes, part: jax.Array) -> Inputs:
        out, up = _up(form.axis, theta, fixed, _whole(part, theta), outputs=True)
        _, down = _down(form.axis, theta, fixed, out)
        largest = jnp.stack([jnp.max(jnp.abs(x), axis=(0, 2, 3), initial=0) for x in (up, down)])
        return Inputs(up, down, *lax.pmax(largest, form.axis))

    specs: Any = _last(4, form.axis), _last(4, form.axis), PartitionSpec(), PartitionSpec()
    mapped = _mapped(form, local, Inputs(*specs))
    result: Inputs = mapped(theta, fixed, _rows(stack, -(-stack.shape[-1] // blocks), blocks))
    return result


@functools.partial(jax.jit, static_argnums=0)
def _hypergradient(
    form: ShardedBlockPermutation, theta: jax.Array, fixed: Routes, m: jax.Array, g: jax.Array
) -> jax.Array:
    blocks = theta.shape[-1]

    def local(theta: jax.Array, fixed: Routes, part: jax.Array) -> jax.Array:
        out, up = _up(form.axis, theta, fixed, _whole(part, theta))
        _, down = _down(form.axis, theta, fixed, out)
        u_m, u_g = up[:, 0, :, None, :], up[:, 1, :, None, :]
        d_m, d_g = down[:, 0, None, :, :], down[:, 1, None, :, :]
        return u_m * d_g + u_g * d_m

    stack = _rows(jnp.stack([m, g]), -(-m.shape[-1] // blocks), blocks)
    result: jax.Array = _mapped(form, local, _last(4, form.axis))(theta, fixed, stack)
    return result


def _mapped(form: ShardedBlockPermutation, local: Any, out_specs: Any) -> Any:
    """``local(θ, routes, rows of v)`` on each device."""
    # Not checked for what is the same on all devices: the check cannot see that of what all_gather returns.
    specs = (_last(4, form.axis), _last(2, form.axis), _last(3, form.axis))
    return jax.shard_map(local, mesh=form.mesh, in_specs=specs, out_specs=out_specs, check_vma=False)


def _up(
    axis: str, theta: jax.Array, fixed: Routes, stack: jax.Array, outputs: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Ĝ applied to a device's part of each row of ``stack`` [r, ñ/D], and of the layers' inputs uᵢ [N, r, k, ñ/kD].

    Or, in place of what enters the layers, what leaves them.
    """

    def layer(v: jax.Array, given: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        block, leave, enter = given
        k, _, blocks = block.shape
        u = lax.optimization_barrier(exchange(v, leave, enter, axis)).reshape(-1, k, blocks)
        out = sum_over(lambda a: u[:, a, None, :] * block[None, a, :, :], k)
        return out.reshape(v.shape), out if outputs else u

    return lax.scan(layer, stack, (theta, fixed.leave, fixed.enter))


def _down(axis: str, theta: jax.Array, fixed: Routes, stack: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ĝᵀ applied to a device's part, and the transposed layers' inputs dᵢ."""

    def layer(v: jax.Array, given: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        block, leave, enter = given
        _, k, blocks = block.shape
        d = v.reshape(-1, k, blocks)
        out = sum_over(lambda o: d[:, o, None, :] * block[None, :, o, :], k)
        return exchange(lax.optimization_barrier(out.reshape(v.shape)), leave, enter, axis), d

    return lax.scan(layer, stack, (theta, fixed.leave_back, fixed.enter_back), reverse=True)


def _rows(v: jax.Array, rows: int, blocks: int) -> jax.Array:
    """v [n] or [r, n] as the first rows of hidden vectors laid out by block, [r, rows, ñ/k]."""
    return padded(jnp.atleast_2d(v), rows * blocks).reshape(-1, rows, blocks)


def _whole(part: jax.Array, theta: jax.Array) -> jax.Array:
    """A device's part of the first rows [r, rows, ñ/kD] with the other rows, which are zero: [r, ñ/D]."""
    k = theta.shape[1]
    return jnp.pad(part, ((0, 0), (0, k - part.shape[1]), (0, 0))).reshape(part.shape[0], -1)


def _last(rank: int, axis: str) -> PartitionSpec:
    """Sharded along the last of ``rank`` axes."""
    return PartitionSpec(*[None] * (rank - 1), axis)
