"""`python -m allround`."""

from allround.cli import main

if __name__ == "__main__":
    main()
