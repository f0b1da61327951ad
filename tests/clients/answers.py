"""What the script answers to the questions that the clients ask."""


def counted(last: int) -> str:
    """The answer to `Count from 1 to LAST`."""
    return ", ".join(str(number) for number in range(1, last + 1))


GREETING = "Hello! I am Antiphon's scripted engine"
WEATHER = "The weather in Oslo, as `get_weather` reports it: -31 degrees, snow in Oslo"
ADDED = "The tool `test.add` answered:\n\n5"
REFUSED = "The tool `test.add` answered:\n\nThe user did not approve this call; it was not made."
