"""How long a test waits for what a sound system does in a moment: a bound for what hangs, never for speed.

A loaded machine takes many times as long as an idle one; no verdict may depend on that.
"""

PATIENCE_S = 100.0
