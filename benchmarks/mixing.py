"""Tasks of several shapes, mixed: always the same, so that whoever judges a run knows what each task had to be."""

from __future__ import annotations

from collections.abc import Mapping


def shape_of(n: int, shares: Mapping[str, int]) -> str:
    """Which shape task number ``n`` has, mixed evenly.

    Args:
        n: any whole number.
        shares: of each shape, in a hundred.

    Raises:
        ValueError: the shares make less than a hundred.
    """
    place = (n * 37) % 100
    for name, share in shares.items():
        if place < share:
            return name
        place -= share
    raise ValueError(f"shares make {sum(shares.values())}, not a hundred")
