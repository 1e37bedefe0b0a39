"""`python -m tinystories`: the same as the command `tinystories`."""

from tinystories.commands.main import main


if __name__ == "__main__":
    main()
