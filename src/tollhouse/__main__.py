"""The command line: ``tollhouse``, or ``python -m tollhouse``."""

from tollhouse.cli.root import root


def main() -> None:
    """Run the command that the arguments name; exits with its code."""
    root.main(prog_name="tollhouse")


if __name__ == "__main__":
    main()
