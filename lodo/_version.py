"""The version, in one place; importing this module costs nothing."""

__version__ = "0.1.0"
