"""Levenberg-Marquardt: Newton's step with a damped Hessian, which the caller gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo import _tree, _validation
from lodo.quasi_newton import _common
from lodo.quasi_newton._common import Form, dot

Scaling = Literal["diagonal", "identity"]


class LevenbergMarquardtState(NamedTuple):
    """State of `levenberg_marquardt`."""

    step_count: jax.Array  # [] int32: updates made


def levenberg_marquardt(
    damping: jax.typing.ArrayLike = 1.0, *, scaling: Scaling = "diagonal", form: Form = "textbook"
) -> optax.GradientTransformationExtraArgs:
    r"""The step −δ with (A + λ D) δ = b, where D = diag(A) after Marquardt or I after Levenberg.

    Forms. ``"textbook"``: A = H and b = g, with H the loss's Hessian (or Gauss-Newton matrix JᵀJ) and g its
    gradient: Newton's step at λ = 0, a short (scaled) gradient step for large λ. ``"released"``: A = H² and
    b = H g, that is Levenberg-Marquardt on the least-squares problem ‖g(x)‖² with Jacobian H. It is Newton's step at
    λ = 0 too and always heads towards a stationary point, of whatever kind, but squares the condition number.

    λ is constant. To adapt it to the progress made, as Marquardt did, wrap the factory in
    `optax.inject_hyperparams` and set ``state.hyperparams["damping"]`` between updates.
    Memory and cost of a step: n² numbers and the O(n³) solution of a dense linear system.

    Args:
      damping: λ ≥ 0.
      scaling: D = diag(A) ("diagonal") or I ("identity").
      form: "textbook" or "released".

    Returns:
      A transformation whose update is −δ; call ``update(grads, state, params, hessian=H)`` with H an [n, n] matrix,
      or a function from parameters to one, for the parameters flattened leaf after leaf as
      `jax.flatten_util.ravel_pytree` does. Its state is a `LevenbergMarquardtState`.

    Raises:
      ValueError, TypeError: an argument out of range or of a wrong type; ``hessian`` or ``params`` missing from
        update; a Hessian of another shape; trees that differ from one another.

    A singular A + λ D gives a non-finite step.

    References:
      Levenberg, "A method for the solution of certain non-linear problems in least squares", Quarterly of Applied
      Mathematics 2, 1944; Marquardt, "An algorithm for least-squares estimation of nonlinear parameters", Journal of
      the Society for Industrial and Applied Mathematics 11, 1963.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from lodo.quasi_newton import levenberg_marquardt
      >>> loss = lambda x: (1 - x[0]) ** 2 + (x[1] - x[0] ** 2) ** 2
      >>> optimizer = levenberg_marquardt(damping=0.1)
      >>> x = jnp.array([0.0, 1.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(20):
      ...     updates, state = optimizer.update(jax.grad(loss)(x), state, x, hessian=jax.hessian(loss))
      ...     x = optax.apply_updates(x, updates)
      >>> bool(loss(x) < 1e-6)
      True
    """
    _validation.check_choice("form", form, _common.FORMS)
    _validation.check_choice("scaling", scaling, get_args(Scaling))
    _validation.check_real("damping", damping, minimum=0.0)

    def init(params: optax.Params) -> LevenbergMarquardtState:
        _validation.check_parameter_tree("params", params)
        return _tree.whole(LevenbergMarquardtState(jnp.zeros((), jnp.int32)), _tree.place_of(params))

    def update(
        updates: optax.Updates,
        state: LevenbergMarquardtState,
        params: optax.Params | None = None,
        *,
        hessian: jax.typing.ArrayLike | Callable[[optax.Params], jax.typing.ArrayLike] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LevenbergMarquardtState]:
        _common.check_state("levenberg_marquardt", state, LevenbergMarquardtState)
        n = _common.check_update("levenberg_marquardt", updates, params)
        count: Any = optax.safe_increment(state.step_count)
        after = LevenbergMarquardtState(count)
        if n == 0:
            return updates, after
        dtype = _common.working_dtype(params)
        matrix = _hessian_matrix(hessian, params, n).astype(dtype)
        place = _tree.place_of(updates, params, matrix, state)
        state, matrix = _tree.whole((state, matrix), place)
        gradient = _tree.ravel(updates, dtype, place)
        right = gradient
        if form == "released":
            right, matrix = dot(matrix, gradient), dot(matrix, matrix)
        diagonal = jnp.diagonal(matrix) if scaling == "diagonal" else jnp.ones(n, dtype)
        damped = matrix + _common.scalar(damping, dtype) * jnp.diag(diagonal)
        step = -jnp.linalg.solve(damped, right)
        return _tree.unravel(step, params), after

    return _validation.naming_leaves(init, update)


def _hessian_matrix(hessian: Any | Callable[[Any], Any], params: Any, n: int) -> jax.Array:
    if hessian is None:
        raise TypeError(
            "levenberg_marquardt: update needs the Hessian as an [n, n] matrix or a function from parameters to one; "
            "for parameters that are one vector call "
            "tx.update(grads, state, params, hessian=lambda p: jax.hessian(loss)(p, batch)), "
            "for other trees flatten them first with jax.flatten_util.ravel_pytree."
        )
    matrix = hessian(params) if callable(hessian) else hessian
    if not isinstance(matrix, jax.Array | np.ndarray) or matrix.shape != (n, n):
        raise ValueError(
            f"levenberg_marquardt: hessian must be one matrix of shape ({n}, {n}), as params has {n} entries; got "
            f"{_validation.describe_tree(matrix)}. For parameters that are not one vector take jax.hessian of the "
            "loss as a function of the flattened ones (jax.flatten_util.ravel_pytree)."
        )
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise TypeError(f"levenberg_marquardt: hessian must be real and floating; it has dtype {matrix.dtype}.")
    return jnp.asarray(matrix)
