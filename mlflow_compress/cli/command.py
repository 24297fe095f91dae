"""How every subcommand reads its options: one that takes one value is given once."""

from collections.abc import Callable
from typing import Any

import click

__all__ = ["Command", "Group", "command"]


class Command(click.Command):
    """Refuses an option that is given twice, of which click would keep the last."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            click.UsageError: an option that takes one value is there twice.
        """
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for option in dict.fromkeys(order):
                if _takes_one(option) and order.count(option) > 1:
                    ctx.fail(f"{option.opts[0]} is given {order.count(option)} times: keep one")
        return super().parse_args(ctx, args)


def _takes_one(option: click.Parameter) -> bool:
    if not isinstance(option, click.Option):
        return False
    return not (option.multiple or option.is_flag or option.count)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def command() -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; a decorator."""
    return click.command(cls=Command)
