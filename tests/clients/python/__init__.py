"""The checks of Python's clients."""
