"""Kubernetes: claims, how they are exposed, and the pods that read and write them. Knows nothing of packs."""
