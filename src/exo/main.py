"""The `exo` command: `exo` or `python -m exo.main`."""

from exo.cli import app
from exo.commandline import open_standard_streams


def main() -> None:
    open_standard_streams()
    app(prog_name="exo")


if __name__ == "__main__":
    main()
