"""Where the ``kimi-nb`` command and ``python -m kimi_nb`` begin."""

import sys


def main() -> int:
    """Run the command line of this process and return its exit code; Ctrl-C is one line from here on."""
    try:
        # Imported here, so that Ctrl-C while the command line is loaded is no traceback either.
        from kimi_nb.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("kimi-nb: interrupted", file=sys.stderr)  # noqa: T201 - it is the command line that speaks
        return 130


if __name__ == "__main__":
    sys.exit(main())
