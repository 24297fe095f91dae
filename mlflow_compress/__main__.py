"""The command line's first step: it says in one line what even its help would need.

As ``python -m mlflow_compress`` and as the console script, also where the package lies alone, as on
a device that has no more than reads packed models.
"""

import sys

from mlflow_compress.base.modules import not_installed

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from mlflow_compress.cli.main import main as run
    except ModuleNotFoundError as error:
        line = not_installed(error)
        if line is None:
            raise
        sys.stderr.write(f"error: {line}\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
