"""The records of the comparison: one for each suite and optimizer, and one of step times for each suite."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lodo_experiments.config.suite_presets import SuitePreset
from lodo_experiments.optimizers.peers import PEERS, Peer
from lodo_experiments.results.training_run import Run
from lodo_experiments.studies.setup import Computed, Part
from lodo_experiments.studies.suites.trials import Trials, run_on, task_of, tune_on
from lodo_experiments.tasks.base import Task
from lodo_experiments.tasks.problems.problem import Problem
from lodo_experiments.tasks.problems.suites import SUITES, problem_named
from lodo_experiments.utils.lodo_kernel import lodo_kernel

#: Points of a stored curve: means over windows of steps.
POINTS = 200
#: Trials side by side in one program.
LANES = 4
#: Losses at the beginning of the runs on the first problem, which a replay makes again.
BEGINNING = 20


def part_name(suite: str, peer: str) -> str:
    """The name of the record of an optimizer on a suite.

    >>> part_name("held_out", "LODO tuned")
    'held_out-LODO_tuned'
    """
    return f"{suite}-{peer.replace(' ', '_')}"


def suite_parts(preset: SuitePreset, results: Path) -> dict[str, Part]:
    """Every part of the comparison, by name. A peer that is not installed has one only where its record is there."""
    found = {}
    for suite in preset.suites:
        names = [name for name in SUITES[suite] if name in preset.problems or not preset.problems]
        for peer in (PEERS[name] for name in preset.optimizers or PEERS):
            name = part_name(suite, peer.optimizer.name)
            if not peer.missing or (results / preset.name / "problem_suites" / f"{name}.npz").exists():
                found[name] = _runs(preset, names, peer)
        if preset.timed_steps:
            found[f"{suite}-step_times"] = _step_times(preset, names)
    return found


def _runs(preset: SuitePreset, names: Sequence[str], peer: Peer) -> Part:
    settings = {
        "problems": names, "most_steps": preset.most_steps, "seeds": preset.seeds, "tuned": preset.tuned,
        "grid": dict(peer.grid), "defaults": dict(peer.optimizer.defaults),
    }  # fmt: skip
    seeds = list(range(preset.seeds))

    def beginning(values: Mapping[str, Any]) -> Computed:
        problem = problem_named(names[0])
        task, steps = task_of(problem, peer.counts_evaluations), min(BEGINNING, _steps(preset, problem))
        run = run_on(task, peer, values["hyperparameters"][0], seeds, steps)
        return Computed({"beginning": run.losses}, {}, run.compile_seconds)

    return Part(settings, seeds, lambda: _compute_runs(preset, peer, names), beginning)


def _step_times(preset: SuitePreset, names: Sequence[str]) -> Part:
    peers = [peer for name, peer in PEERS.items() if not name.endswith("tuned")]
    settings = {
        "problems": names, "optimizers": [peer.optimizer.name for peer in peers],
        "timed_steps": preset.timed_steps, "timed_blocks": preset.timed_blocks,
    }  # fmt: skip
    return Part(settings, [0], lambda: _compute_step_times(preset, peers, names))


def _steps(preset: SuitePreset, problem: Problem) -> int:
    return min(problem.steps, preset.most_steps) if preset.most_steps else problem.steps


def _compute_runs(preset: SuitePreset, peer: Peer, names: Sequence[str]) -> Computed:
    """Tune and run one optimizer on each problem."""
    rows: list[dict[str, np.ndarray]] = []
    trials: list[Trials] = []
    beginnings: list[np.ndarray] = []
    compile_seconds = 0.0
    for name in names:
        problem = problem_named(name)
        task, steps = task_of(problem, peer.counts_evaluations), _steps(preset, problem)
        found = tune_on(problem, task, peer, steps=steps, lanes=LANES) if preset.tuned else Trials.none(peer)
        run = run_on(task, peer, found.best, list(range(preset.seeds)), steps)
        compile_seconds += found.compile_seconds + run.compile_seconds
        trials.append(found)
        beginnings.append(run.losses[:, :BEGINNING])
        rows.append(_row(problem, peer, run, steps, preset.seeds))
    return Computed(
        {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        | {
            "trial_problem": np.repeat(np.arange(len(names)), [len(found.scores) for found in trials]),
            "trial_values": np.concatenate([found.points for found in trials]),
            "trial_scores": np.concatenate([found.scores for found in trials]),
            "beginning": beginnings[0],
        },
        {
            "hyperparameters": [dict(found.best) for found in trials],
            "sizes": [problem_named(name).size() for name in names],
            "steps": [_steps(preset, problem_named(name)) for name in names],
            "resolutions": [problem_named(name).resolution for name in names],
            "about": peer.optimizer.about,
            "version": peer.version,
        },
        compile_seconds,
    )


def _row(problem: Problem, peer: Peer, run: Run, steps: int, seeds: int) -> dict[str, np.ndarray]:
    """What is stored of the runs on one problem, the same shapes for each."""
    ends = window_ends(steps)
    starts = np.concatenate([[0], ends[:-1]])
    with np.errstate(all="ignore"):
        sums = np.concatenate([np.zeros((seeds, 1)), np.cumsum(run.losses.astype(np.float64), axis=1)], axis=1)
        curve = (sums[:, ends] - sums[:, starts]) / (ends - starts)
    evaluations = np.broadcast_to(ends, (seeds, len(ends)))
    if "evaluations" in run.measured:
        evaluations = np.asarray(run.measured["evaluations"])[:, ends]
    state, params = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / seeds for tree in (run.optimizer_state, run.params)
    )
    return {
        "final": run.scores.astype(np.float64),
        "not_finite_at": run.diverged_at,
        "initial": run.losses[:, 0].astype(np.float64),
        "curve": curve.astype(np.float32),
        "evaluations": evaluations.astype(np.int32),
        "state_bytes": np.array(state),
        "parameter_bytes": np.array(params),
    }


def window_ends(steps: int) -> np.ndarray:
    """Steps at which the windows of a stored curve end, [points], at most `POINTS` of them and each a step at least.

    >>> window_ends(600)[[0, 1, -1]].tolist()
    [3, 6, 600]
    """
    return np.unique(np.maximum(1, np.round(np.linspace(0, steps, POINTS + 1)[1:]).astype(int)))


def _compute_step_times(preset: SuitePreset, peers: Sequence[Peer], names: Sequence[str]) -> Computed:
    """Seconds an evaluation of each optimizer on each problem, by blocks that take turns; nan: it is not installed."""
    count, blocks = preset.timed_steps, preset.timed_blocks
    seconds, compiled = np.full((len(names), len(peers), blocks), np.nan), 0.0
    for i, name in enumerate(names):
        task = task_of(problem_named(name))
        ready: dict[int, Callable[[], int]] = {}
        for j, peer in enumerate(peers):
            if not peer.missing:
                before = time.perf_counter()
                ready[j] = _block(task, peer, count)
                compiled += time.perf_counter() - before
        for block in range(blocks):
            for j, run in ready.items():
                before = time.perf_counter()
                evaluations = run()
                seconds[i, j, block] = (time.perf_counter() - before) / evaluations
    # How busy the machine is, where it says so: processes that wanted to run in the last 1, 5 and 15 minutes.
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else []
    return Computed({"seconds": seconds}, {"load": load, "kernel": lodo_kernel()}, compiled)


def _block(task: Task, peer: Peer, steps: int) -> Callable[[], int]:
    """A function that makes some steps from the start, compiled and warm, and returns their evaluations."""
    key = jax.random.key(0)
    transformation = peer.optimizer.build(
        {name: jnp.float32(value) for name, value in peer.optimizer.defaults.items()}, key, 10**9
    )
    update = optax.with_extra_args_support(transformation).update

    @jax.jit
    def go(carry: Any) -> Any:
        def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
            params, state = carry
            batch = jax.random.key_data(jax.random.fold_in(key, t))
            value, gradient = jax.value_and_grad(task.loss)(params, batch)
            extra: Mapping[str, Any] = {"value": value, "value_fn": lambda p: task.loss(p, batch)}
            updates, state = update(gradient, state, params, **extra)
            return (optax.apply_updates(params, updates), state), value

        (_, state), values = jax.lax.scan(step, carry, jnp.arange(steps))
        return values, state.evaluations if peer.counts_evaluations else jnp.asarray(steps)

    params = task.init(key)
    start = (params, transformation.init(params))
    program = go.lower(start).compile()

    def run() -> int:
        return int(jax.block_until_ready(program(start))[1])

    run()
    return run
