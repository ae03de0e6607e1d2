"""The study of LODO in fewer bytes: its forms, its bill, its verdicts, and its states in checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lodo
from lodo_experiments.analysis import compact_memory
from lodo_experiments.config.presets import AUTHORS_BOWL_VALUES
from lodo_experiments.optimizers import compact_forms, names
from lodo_experiments.report import step_cost_figures
from lodo_experiments.results.records import Record
from lodo_experiments.studies import registry
from lodo_experiments.training import loop
from lodo_experiments.training.checkpoints import Checkpoint


def record(name, scores):
    return Record(
        f"bowl/{name}", {"scores": np.array(scores)}, {}, {"preset": "paper", "seeds": list(range(len(scores)))}
    )


FOUND = {
    "LODO": record("LODO", [1.0, 2.0, 3.0, 4.0]),
    "LODO-small-narrow": record("LODO-small-narrow", [1.1, 1.9, 3.1, 3.9]),
    "LODO-rolled": record("LODO-rolled", [1.5, 2.6, 3.4, 4.5]),
    "LODO-small-four-layers": record("LODO-small-four-layers", [0.5, 1.6, 2.4, 3.5]),
    "LODO-tiled": record("LODO-tiled", [1.0, np.nan, 2.0, 3.0]),
}


def test_rows_are_paired_with_lodo_in_full_and_lie_by_price():
    rows = compact_memory.loss_rows(FOUND)
    verdicts = {row["form"]: row["against LODO in full"] for row in rows}
    assert verdicts == {
        "LODO": None,
        "LODO-rolled": "higher",
        "LODO-small-four-layers": "lower",
        "LODO-small-narrow": "within",
        "LODO-tiled": "diverges",
    }
    prices = [row["θ and moments"] for row in rows]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] == 384.0
    by_name = {row["form"]: row for row in rows}
    assert by_name["LODO-small-narrow"]["difference"] == pytest.approx(0.0)
    assert by_name["LODO-rolled"]["difference"] == pytest.approx(0.5)
    assert by_name["LODO-tiled"]["diverged"] == 1
    # 65 with 16 permutations is less than 52 with 32; those that are above LODO in full do not count.
    assert compact_memory.cheapest(rows)["form"] == "LODO-small-four-layers"
    assert compact_memory.cheapest([row for row in rows if row["form"] in ("LODO", "LODO-rolled")]) is None
    assert compact_memory.describe(rows, "LODO-rolled").startswith("+0.500 [+0.370, +0.630]")
    assert compact_memory.describe(rows, "LODO-reused") == "not measured"


def test_overview_says_of_every_form_what_it_loses():
    losses = {"noisy_bowl": compact_memory.loss_rows(FOUND), "image_generation": []}
    rows = {row["form"]: row for row in compact_memory.overview(compact_memory.price_rows(), losses)}
    assert set(rows) == {"LODO", *compact_forms.COMPACT}
    assert rows["LODO"]["on the noisy bowl"] is None
    assert rows["LODO-rolled"]["on the noisy bowl"] == compact_memory.describe(losses["noisy_bowl"], "LODO-rolled")
    assert rows["LODO-reused"]["on the noisy bowl"] == "not measured"
    assert "on image generation" not in rows["LODO"]


def test_the_figure_has_every_form_on_its_side():
    figure = step_cost_figures.losses_of_forms(compact_memory.loss_rows(FOUND))
    good, bad = figure.data[:2]
    assert set(good.y) == {"small-four-layers (65)", "small-narrow (52)"}
    assert set(bad.y) == {"rolled (384)", "tiled (384)"}
    assert good.x[good.y.index("small-four-layers (65)")] == pytest.approx(-0.5)
    assert figure.layout.yaxis.categoryarray[0] == "small-narrow (52)"  # the least at the bottom


@pytest.mark.parametrize("name", ["LODO", "LODO-small-narrow", "LODO-reused", "LODO-small-four-layers"])
def test_the_bill_is_that_of_real_arrays(name):
    size, optimizer = 600, names.optimizer_named(name)
    state = optimizer.build(optimizer.defaults, jax.random.key(0), 1).init(jnp.zeros(size, jnp.float32))
    total = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    price = names.numbers_a_parameter(name, size)
    assert total == pytest.approx(4 * size * price["in all"])
    assert price["θ"] + price["moments"] + price["permutations"] < price["in all"] < 500


def test_the_compact_forms_keep_the_goal():
    params = jax.ShapeDtypeStruct((compact_forms.COUNTED_SIZE,), jnp.float32)
    prices = {form: names.numbers_a_parameter(form) for form in (compact_memory.RECOMMENDED, compact_memory.SMALLEST)}
    rolled = lodo.operators.BlockPermutation(permutations="rolled")
    for form, arguments in ((compact_memory.RECOMMENDED, {}), (compact_memory.SMALLEST, {"operator": rolled})):
        assert prices[form]["θ"] + prices[form]["moments"] <= compact_memory.GOAL
        # They are what the documentation says they are.
        table = lodo.diagnostics.cost_table(params, storage="compact", **arguments)
        assert table.total_bytes == pytest.approx(4 * compact_forms.COUNTED_SIZE * prices[form]["in all"])
    assert prices[compact_memory.SMALLEST]["in all"] <= compact_memory.GOAL


def test_the_study_takes_the_values_tuned_for_lodo_in_full(tmp_path):
    with jax.enable_x64(True):
        bowl = registry.build("noisy_bowl", "paper", show=False)
        (study,) = registry.variant_of(bowl, "compact")
        some_forms = bowl.with_preset(optimizers=("LODO-small-narrow", "LODO-small-four-layers"))
        (some,) = registry.variant_of(some_forms, "compact")
        tuned = bowl.tune("LODO").values["hyperparameters"]
    assert study.preset.optimizers == tuple(compact_forms.COMPACT)
    assert all(values == tuned for values in study.fixed.values())
    assert (study.preset.steps, study.preset.seeds) == (100_000, 8)
    assert study.experiment == "noisy_bowl_compact"
    assert study.command.endswith("noisy_bowl --preset paper --variant compact")
    assert some.preset.optimizers == ("LODO-small-narrow", "LODO-small-four-layers")
    with pytest.raises(ValueError, match="rosenbrock has no variant 'compact'"), jax.enable_x64(True):
        registry.variant_of(registry.build("rosenbrock", "smoke", show=False), "compact")


def test_a_compact_state_is_checkpointed_bit_by_bit(tmp_path):
    kept = lodo.compact.Storage(theta="bfloat16", first_moment="int8", second_moment="int16")
    optimizer, x = lodo.lodo(0.3, depth=2, block_size=2, storage=kept), jnp.ones(3, jnp.float32)
    _, state = jax.jit(optimizer.update)(x, optimizer.init(x))
    checkpoint = Checkpoint(tmp_path / "state")
    checkpoint.save({"run": "compact"}, 1, (x, state), {})
    (_, again), _ = checkpoint.load({"run": "compact"}, (x, optimizer.init(x)))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.exhaustive
def test_a_form_trains_the_bowl():
    with jax.enable_x64(True):
        task = registry.build("noisy_bowl", "smoke", show=False).task
        run = loop.train(
            task, compact_forms.COMPACT["LODO-small-four-layers"], steps=300, seeds=[0, 1], chunk=300,
            hyperparameters=AUTHORS_BOWL_VALUES,
        )  # fmt: skip
    # Standing still costs tr(H)/2 = 7.4 more with every step of the centre: more than 1,400 by then.
    assert run.losses[:, -100:].mean() < 100
    assert run.optimizer_state.theta.mantissa.dtype == np.int16


def test_tiles_hold_what_they_permute_and_neighbours_meet():
    operator = compact_forms.TiledPermutations(depth=2)
    _, fixed = operator.init(jax.random.key(0), 98, jnp.float32)
    forward, inverse = np.asarray(fixed.forward), np.asarray(fixed.inverse)
    every, blocks = np.arange(forward.shape[1]), forward.shape[1] // 4
    for there, back in zip(forward, inverse):
        np.testing.assert_array_equal(there[back], every)
    tile = (every % blocks) * operator.tiles // blocks
    np.testing.assert_array_equal(tile[forward[0]], tile)
    assert (tile[forward[1]] != tile).any()
