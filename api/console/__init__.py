"""The console: what operators see in a browser."""
