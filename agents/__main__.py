"""`python -m agents`: the same as `python -m millrace`."""

from millrace.__main__ import main

if __name__ == "__main__":
    main()
