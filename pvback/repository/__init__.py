"""The repository format and its invariants: what lies under which key, in which order it is written.

Knows object stores and the data path; knows nothing of Kubernetes, of databases, or of a terminal.
"""
