"""The `rkllama` command: `rkllama` or `python -m rkllama.main`."""

from rkllama.cli import app


def main() -> None:
    app(prog_name="rkllama")


if __name__ == "__main__":
    main()
