"""How every subcommand reads its options: each once where it takes one value, numbers bounded."""

import math
from collections.abc import Callable
from typing import Any

import click

from mlflow_compress.base.bounds import Bound

__all__ = ["Command", "Group", "Number", "command", "whole"]


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


class Number(click.FloatRange):
    """A float of a range; of one that is no number, too, it can be said that it is not in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a text."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is no number.", param, ctx)
        return found


def whole(bound: Bound, least: int | None = None) -> click.IntRange:
    """Return the type of an option that takes a whole number within bounds.

    Args:
        bound: of the number.
        least: in place of the bound's least.
    """
    return click.IntRange(bound.least if least is None else least, bound.most)
