"""Measurements of speed and memory, run on purpose; no test asserts anything about their outcome."""
