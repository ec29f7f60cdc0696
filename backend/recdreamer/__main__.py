"""`python -m recdreamer ...` is the command `recdreamer ...`."""

from recdreamer.cli.main import main

if __name__ == "__main__":
    main()
