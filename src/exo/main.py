"""The `exo` command: `exo` or `python -m exo.main`."""

from exo.cli import app


def main() -> None:
    app(prog_name="exo")


if __name__ == "__main__":
    main()
