"""`python -m ichnos`: the command line, where no script of that name is on the path."""

from ichnos.cli.main import main

if __name__ == "__main__":
    main()
