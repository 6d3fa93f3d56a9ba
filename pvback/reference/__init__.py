"""A second, slow reader of the repository format, written from `docs/format.md` alone.

It is the oracle that tests hold the data path against, and the way to get data out on a machine where the
native module does not run. So it imports nothing of pvback but `pvback.errors`.
"""
