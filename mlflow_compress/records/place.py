"""Where something is measured: a device and so many threads."""

from dataclasses import dataclass

__all__ = ["LOCAL", "Place"]

LOCAL = "local"
"""This machine, as targets and measurements name it."""


@dataclass(frozen=True)
class Place:
    """A device, by the address that it is reached at, and the threads that it runs with.

    Two places are equal when numbers of one hold for the other. Whatever is no address of another
    device is this machine.
    """

    device: str = LOCAL
    threads: int = 1

    def __post_init__(self) -> None:
        """Give this machine its one name."""
        if not self.device.startswith(("ssh://", "cmd:")):
            object.__setattr__(self, "device", LOCAL)

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self.device == LOCAL
