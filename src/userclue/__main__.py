"""`python -m userclue` is `userclue`."""

from userclue.cli.app import main

if __name__ == "__main__":
    main()
