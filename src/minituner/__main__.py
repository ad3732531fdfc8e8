"""`python -m minituner` is the same as `minituner`."""

from minituner.cli import main

if __name__ == "__main__":
    main()
