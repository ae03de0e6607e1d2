"""One SLURM for all tests here, or a word why there is none: ``make test-slurm`` insists on one, pytest alone skips."""

import os
from collections.abc import Iterator

import pytest
from cluster import Cluster, ClusterError, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A running one-machine SLURM."""
    if (absent := missing()) and not os.environ.get("LODO_SLURM_REQUIRED"):
        pytest.skip(f"no SLURM on this machine ({', '.join(absent)}); on Debian: slurm-wlm and munge")
    try:
        cluster = Cluster()
    except ClusterError as error:
        pytest.fail(str(error), pytrace=False)
    with cluster:
        yield cluster
