"""The kinds of arguments that commands of ours share. Pure."""

import argparse
from collections.abc import Callable


def make_range(lowest: int, highest: int) -> Callable[[str], int]:
    """Returns a type for `argparse`: whole numbers from `lowest` to `highest`."""

    def read(text: str) -> int:
        number = int(text)
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{number} is not between {lowest} and {highest}")
        return number

    read.__name__ = "number"
    return read
