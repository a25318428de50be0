"""What a server is asked to do, and what it accepts from its clients."""

from __future__ import annotations

from dataclasses import dataclass, fields

MOST = 1e12
"""No limit needs to be larger; time-outs may not be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """Limits of a server; ``ValueError`` for one that is not above 0, or without an end."""

    max_batch: int = 8  # most pictures, or people for pose, that go through a network at once
    max_wait: float = 0.002  # seconds that one of them waits for company
    queue: int = 64  # pictures of a model in work or waiting; further ones are answered 429
    deadline: float = 30.0  # seconds from the last byte of a request to its answer, else 504
    upload: float = 60.0  # seconds that a client may take for the body of a request, else 408
    body_bytes: int = 32 * 2**20  # of a request, else 413
    pixels: int = 50_000_000  # of a picture, checked before it is decoded, else 413
    network_pixels: int = 8_000_000  # segmentation: of what the network sees, over all scales, else 422
    people: int = 100  # boxes with a picture, else 422; of the people found, the best so many
    pictures: int = 32  # in a request, else 422
    stalled: float = 300.0  # seconds after which a batch that has not come back means that the runtime hangs

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "max_wait" and value == 0:
                continue
            if not 0 < value < MOST:
                raise ValueError(f"{one.name} must be above 0 and less than {MOST:.0e}, got {value}")

    @property
    def pixels_in_work(self) -> int:
        """Of all pictures that are decoded at a time, at 3 bytes each; others wait."""
        return 4 * self.pixels

    @property
    def people_in_work(self) -> int:
        """Cut out of their pictures at a time; others wait."""
        return max(512, self.people)

    @property
    def bytes_in_work(self) -> int:
        """Of all request bodies that are held at a time."""
        return 8 * self.body_bytes
