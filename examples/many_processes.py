"""LODO spread over several processes. Start it in each: python many_processes.py ADDRESS:PORT PROCESSES NUMBER"""

import functools
import sys

import jax
import jax.numpy as jnp
import optax

import lodo

address, processes, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")  # how CPUs exchange; GPUs have their own way
jax.distributed.initialize(address, num_processes=processes, process_id=number)

mesh = jax.sharding.Mesh(jax.devices(), ("blocks",))  # the devices of all processes
optimizer = lodo.lodo(initial_learning_rate=0.5, operator=lodo.operators.ShardedBlockPermutation(mesh))
params = jnp.ones(1000)  # the same in every process
state = lodo.sharding.initialize(optimizer, params, mesh)


@functools.partial(jax.jit, donate_argnums=1)
def step(params, state):
    curvature = jnp.linspace(0.1, 1.0, 1000)
    loss, gradient = jax.value_and_grad(lambda x: 0.5 * jnp.sum(curvature * x**2))(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


for t in range(41):
    params, state, loss = step(params, state)
    if t % 10 == 0 and number == 0:
        print(f"step {t:2d}  loss {loss:.4f}")

held = sum(part.data.nbytes for part in state.theta.addressable_shards)
print(f"process {number} holds {held:,} of the {state.theta.nbytes:,} bytes of theta")
