"""Measurements of the whole cluster on this machine. Owns how they are made; results: docs/performance.md."""
