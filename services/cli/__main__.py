"""`python -m services.cli`: the `parley` command."""

from services.cli.main import main

if __name__ == "__main__":
    main()
