"""How fast LODO's step is, and how much memory it takes: ``python -m benchmarks.speed``, or ``make bench``."""
