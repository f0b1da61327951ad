"""Measures the whole cluster on this machine. Owns how it is measured; the results are in
docs/performance.md."""
