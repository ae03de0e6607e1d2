"""The paper's experiments: tasks, training, records, and what turns them into pages.

Where the environment names a compilation cache (``LODO_COMPILATION_CACHE``), importing this package turns it on, as
notebooks and their kernels cannot do that for themselves; see :mod:`lodo_experiments.utils.compilation_cache`.
"""

import os

if os.environ.get("LODO_COMPILATION_CACHE"):
    from lodo_experiments.utils import compilation_cache

    compilation_cache.enable()
