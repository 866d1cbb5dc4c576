"""The `rkllama` command: `rkllama` or `python -m rkllama.main`."""

from exo.commandline import open_standard_streams
from rkllama.cli import app


def main() -> None:
    open_standard_streams()
    app(prog_name="rkllama")


if __name__ == "__main__":
    main()
