"""The same windows by other stream processors: see ``__main__``.

A script for each of them runs in an environment of its own, outside the project's. It needs only what ``output`` has.
"""
