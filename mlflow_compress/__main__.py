"""``python -m mlflow_compress``: the command line, also where no console script is on the PATH."""

from mlflow_compress.cli.main import main

if __name__ == "__main__":
    main()
