"""Backup and restore of Kubernetes persistent volumes. What is in `__all__` is the public API."""

__all__: list[str] = []
