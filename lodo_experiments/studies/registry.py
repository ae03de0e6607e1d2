"""The paper's studies by name: what each notebook, command and batch computes, built in one place."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from lodo.transform import LodoState
from lodo_experiments.config import presets
from lodo_experiments.config.paths import results_folder
from lodo_experiments.data import ImageDataset, load_images, shrink
from lodo_experiments.models import AutoregressiveNetwork, ResNet
from lodo_experiments.optimizers.compact_forms import COMPACT
from lodo_experiments.optimizers.names import optimizer_named
from lodo_experiments.optimizers.search_spaces import ABLATIONS, ablated_momentum
from lodo_experiments.studies.study import Study
from lodo_experiments.tasks import image_classification, image_generation, noisy_bowl, rosenbrock
from lodo_experiments.tasks.base import Task
from lodo_experiments.training.loop import train

#: LODO's values on the bowl as the paper's authors tuned them, from far more trials than a short preset has.
AUTHORS_BOWL_VALUES = {"initial_learning_rate": 0.270, "meta_learning_rate": 0.00096, "momentum": 0.195}

#: Seeds of the runs whose G the frozen-Hessian test starts from: apart from those that are reported and that tune.
FIRST_LEARNING_SEED = 500_000

#: Which of the eight values of each of the three knobs are turned, where not all are.
KNOBS: Mapping[str, tuple[int, ...]] = {"smoke": (3, 7)}

#: Experiments whose numbers the paper computes in float64.
DOUBLE = frozenset({"noisy_bowl", "rosenbrock"})


def build(
    experiment: str,
    preset: str,
    *,
    seeds: int = 0,
    results_dir: str = "",
    data_dir: str = "",
    download: bool = False,
    until: float = math.inf,
    show: bool = True,
) -> Study:
    """A study of the paper.

    Args:
      experiment: "noisy_bowl", "rosenbrock", "image_generation" or "image_classification".
      preset: smoke, laptop or paper.
      seeds: runs for each optimizer; 0: the preset's number.
      results_dir: folder of the records; empty: the default place.
      data_dir: folder of the data sets; empty: the default place.
      download: whether a missing data set may be downloaded.
      until: ``time.monotonic()`` at which to stop with everything saved; infinity: never.
      show: whether to report progress.

    Raises:
      ValueError: no such experiment or preset, or an experiment in float64 without ``jax_enable_x64``.
      DataError: the data set is not there.

    >>> build("image_generation", "smoke", show=False).task.name
    'image_generation'
    """
    chosen = presets.preset_named(experiment, preset)
    if experiment in DOUBLE and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{experiment} is computed in float64, as in the paper; first call "
            "jax.config.update('jax_enable_x64', True)."
        )
    own: dict[str, Any]
    if isinstance(chosen, presets.BowlPreset):
        own = {"task": noisy_bowl.noisy_bowl(chosen.size), "after": noisy_bowl.learned_inverse}
    elif isinstance(chosen, presets.ImageGenerationPreset | presets.ImageClassificationPreset):
        own = _of_images(chosen, images_of(chosen, data_dir, download))
    else:
        own = {"task": rosenbrock.rosenbrock(), "chunk": 200}
    if most := lanes_at_most():
        own["lanes"] = min(own.get("lanes", 0) or most, most)
        why = os.environ.get("LODO_RETRIED_AFTER", "")
        own["facts"] = {**own.get("facts", {}), "lanes_at_most": most} | ({"retried_after": why} if why else {})
    return replace(outline(experiment, preset, seeds=seeds, results_dir=results_dir), until=until, show=show, **own)


def outline(experiment: str, preset: str, *, seeds: int = 0, results_dir: str = "") -> Study:
    """A study without its task: it tells what is asked for and what of it is stored, but cannot compute.

    No data set is read for it, and nothing is compiled. Arguments and errors as in :func:`build`.

    >>> outline("image_generation", "paper", results_dir="/nowhere").answered("LODO")
    False
    """
    chosen = presets.preset_named(experiment, preset)
    command = f"python -m lodo_experiments.cli.run {experiment} --preset {preset}" + (
        f" --seeds {seeds}" if seeds else ""
    )
    wanted = replace(chosen, seeds=seeds) if seeds else chosen

    def nothing(*_: Any) -> Any:
        raise NotImplementedError(
            "This study is an outline and computes nothing; lodo_experiments.studies.registry.build does."
        )

    task = Task(experiment, (), nothing, nothing, nothing, nothing)
    return Study(experiment, task, wanted, results_folder(results_dir), command)


def lanes_at_most() -> int:
    """Runs side by side in one program at most, as the environment says by LODO_LANES; 0: it says nothing.

    A batch sets it for a job that ran out of memory; what is computed under it says so in its provenance.

    Raises:
      ValueError: it is no positive integer.
    """
    given = os.environ.get("LODO_LANES", "")
    if given and not (given.isdecimal() and int(given) > 0):
        raise ValueError(f"LODO_LANES must be a positive integer, or unset; got {given!r}.")
    return int(given or 0)


def images_of(
    preset: presets.ImageGenerationPreset | presets.ImageClassificationPreset,
    data_dir: str = "",
    download: bool = False,
) -> ImageDataset:
    """The images that a preset works on, shrunk where it says so."""
    images = load_images(preset.dataset, data_dir=data_dir or None, download=download)
    return shrink(images, preset.reduce) if preset.reduce > 1 else images


def network_of(
    preset: presets.ImageGenerationPreset | presets.ImageClassificationPreset, images: ImageDataset
) -> AutoregressiveNetwork | ResNet:
    """The network that a preset trains on such images."""
    if isinstance(preset, presets.ImageGenerationPreset):
        return AutoregressiveNetwork(images.levels, preset.width, preset.hidden, blocks=preset.blocks)
    return ResNet(classes=10, width=preset.width)


def authors_bowl(bowl: Study) -> Study:
    """LODO on the bowl with the values that the paper's authors tuned."""
    only = bowl.with_preset(schedule=(), optimizers=("LODO",))
    return replace(only, experiment="noisy_bowl_published", fixed={"LODO": AUTHORS_BOWL_VALUES})


def frozen_bowl(bowl: Study) -> dict[str, Study]:
    """The bowl started over with a G that another run has learned: kept as it is, and learning on.

    The learned θ comes from runs with other seeds, at the authors' values; run i here starts from run i's θ there, with
    everything else (x, the bowl's centre, momentum, the meta-optimizer) as at any start.

    Returns:
      "frozen" and "learning on" → study with one optimizer, LODO.
    """
    authors = authors_bowl(bowl)

    def learned(states: LodoState) -> LodoState:
        seeds = [FIRST_LEARNING_SEED + seed for seed in range(len(jax.tree.leaves(states)[0]))]
        run = train(
            authors.task,
            optimizer_named("LODO"),
            steps=authors.preset.steps,
            seeds=seeds,
            hyperparameters=AUTHORS_BOWL_VALUES,
            chunk=authors.chunk,
        )
        return states._replace(theta=run.optimizer_state.theta, fixed=run.optimizer_state.fixed)

    still = {"LODO": {**AUTHORS_BOWL_VALUES, "meta_learning_rate": 0.0}}
    return {
        "frozen": replace(authors, experiment="noisy_bowl_frozen", fixed=still, prepare=learned),
        "learning on": replace(authors, experiment="noisy_bowl_learning_on", prepare=learned),
    }


def default_rosenbrock(valley: Study) -> Study:
    """LODO on Rosenbrock's function at its defaults."""
    only = valley.with_preset(seeds=8, schedule=(), optimizers=("LODO",))
    return replace(only, experiment="rosenbrock_defaults", fixed={"LODO": dict(optimizer_named("LODO").defaults)})


def fixed_ablations(bowl: Study) -> Study:
    """LODO on the bowl with parts taken away, each variant tuned as the others are."""
    chosen = presets.BOWL_ABLATIONS[bowl.preset.name]
    own = replace(chosen, seeds=bowl.preset.seeds)
    return replace(bowl, preset=own, experiment="noisy_bowl_parts" if own.name == "smoke" else bowl.experiment)


def parameterised_ablations(study: Study, indices: tuple[int, ...] = ()) -> Study:
    """LODO with other β, depth and block size, everything else as the study tuned it.

    Args:
      study: in which LODO is tuned.
      indices: which of the eight values j of each; none: the preset's, all of them where `KNOBS` says nothing.
    """
    indices = indices or KNOBS.get(study.preset.name, tuple(range(8)))
    tuned: Mapping[str, float] = study.tuned("LODO").values["hyperparameters"]
    fixed = {
        optimizer.name: dict(tuned)
        if family != "momentum"
        else {**tuned, "momentum": ablated_momentum(tuned["momentum"], j)}
        for family, optimizers in ABLATIONS.items()
        for j, optimizer in enumerate(optimizers)
        if j in indices
    }
    only = study.with_preset(schedule=(), optimizers=tuple(fixed))
    return replace(only, experiment=f"{study.experiment}_ablations", fixed=fixed)


def compact_forms(study: Study) -> Study:
    """LODO in fewer bytes, with the values that the study tuned for LODO in full (at ``smoke`` the authors').

    Args:
      study: in which LODO is tuned; its optimizers that are compact forms are run, or all where it has none.
    """
    smoke = study.preset.name == "smoke"
    values = AUTHORS_BOWL_VALUES if smoke else study.tuned("LODO").values["hyperparameters"]
    names = tuple(name for name in study.preset.optimizers if name in COMPACT) or tuple(COMPACT)
    names = ("LODO", *names) if smoke else names
    only = study.with_preset(schedule=(), optimizers=names)
    return replace(
        only,
        experiment=f"{study.experiment}_compact",
        command=f"{study.command} --variant compact",
        fixed={name: dict(values) for name in names},
        task=replace(study.task, measure=None),
        after=None,
    )


def variant_of(study: Study, variant: str) -> tuple[Study, ...]:
    """What belongs to a study beside its own comparison, by name.

    Args:
      study: the study.
      variant: "" for the study itself, "parts" (the bowl's fixed ablations), "ablations" (β, depth and block size),
        "compact" (in fewer bytes), "authors" and "frozen" (the bowl with the authors' values, and started over with a
        learned G), "defaults" (Rosenbrock's function, untuned).

    Raises:
      ValueError: the study has no such variant.
    """
    if variant == "":
        return (study,)
    if variant == "parts" and study.experiment == "noisy_bowl":
        return (fixed_ablations(study),)
    if variant == "ablations" and study.experiment == "noisy_bowl":
        return (parameterised_ablations(fixed_ablations(study)),)
    if variant == "ablations" and study.experiment == "image_generation":
        return (parameterised_ablations(study),)
    if variant == "compact" and study.experiment in ("noisy_bowl", "image_generation"):
        return (compact_forms(study),)
    if variant == "authors" and study.experiment == "noisy_bowl":
        return (authors_bowl(study),)
    if variant == "frozen" and study.experiment == "noisy_bowl":
        return tuple(frozen_bowl(study).values())
    if variant == "defaults" and study.experiment == "rosenbrock":
        return (default_rosenbrock(study),)
    raise ValueError(
        f"{study.experiment} has no variant {variant!r}. noisy_bowl has parts, ablations, compact, authors and frozen; "
        "image_generation has ablations and compact; rosenbrock has defaults."
    )


def _of_images(chosen: Any, images: ImageDataset) -> dict[str, Any]:
    """What a study of images needs beside its preset."""
    network = network_of(chosen, images)
    if isinstance(network, AutoregressiveNetwork):
        task = image_generation.image_generation(images, chosen.batch_size, network=network)
        after = image_generation.evaluator(images, network, chosen.samples, chosen.test_images)
    else:
        task = image_classification.image_classification(
            images, chosen.batch_size, network=network, l2=chosen.l2, measured_images=chosen.measured_images
        )
        after = None
    facts = {"dataset": f"{images.name} {images.version}", "dataset_sha256": images.fingerprint}
    # One network keeps a CPU busy; on an accelerator as many train side by side as fit in most of its memory.
    if jax.default_backend() == "cpu":
        return {"task": task, "after": after, "facts": facts, "lanes": 1, "chunk": 20}
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    return {"task": task, "after": after, "facts": facts, "memory": limit * 7 // 10, "chunk": 500}
