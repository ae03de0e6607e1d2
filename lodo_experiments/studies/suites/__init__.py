"""The comparison on the problem suites: trials on a grid, reported runs, step times."""
