"""How large the measurements are: in full, and in the quick form. Owns those numbers and nothing else."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    rounds: int
    """How often each alternative is measured, in turn."""
    window_s: float
    """How long live streams are measured each time."""
    streams: tuple[int, ...]
    """Live streams of 50 events/s each."""
    slow_streams: int
    """Live streams of 5 events/s each."""
    idle_streams: tuple[int, ...]
    held: int
    """Quiet responses beside live ones."""
    log_numbers: int
    """The numbers that a long log counts; each is three tokens, beyond the first thousand."""
    stored: tuple[int, int]
    """Stored responses: few, and many."""
    open_tokens: tuple[int, ...]
    """Tokens that each sequence has open when steps of an engine are measured."""
    steps: int
    """Steps, measured without Redis, and writes, measured with it; at least."""
    waiting: tuple[int, ...]
    """Responses that wait in the queue while others are accepted and taken."""
    requests: int
    """Requests of each kind that wait for their first token."""
    simulated_s: float
    """Virtual seconds of a simulated fleet."""


FULL = Scale(
    rounds=3,
    window_s=3.0,
    streams=(32, 100, 400),
    slow_streams=400,
    idle_streams=(1_000, 10_000),
    held=1_000,
    log_numbers=33_700,
    stored=(1_000, 20_000),
    open_tokens=(0, 1_000, 4_000),
    steps=100,
    waiting=(10, 1_000, 100_000),
    requests=200,
    simulated_s=30.0,
)
QUICK = Scale(
    rounds=1,
    window_s=1.0,
    streams=(32, 100),
    slow_streams=100,
    idle_streams=(500,),
    held=100,
    log_numbers=6_000,
    stored=(50, 500),
    open_tokens=(0, 1_000),
    steps=20,
    waiting=(10, 1_000),
    requests=20,
    simulated_s=3.0,
)
