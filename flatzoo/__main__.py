"""`python -m flatzoo`, the same as the command `flatzoo`."""
import sys

from flatzoo.cli import main

if __name__ == '__main__':
    sys.exit(main())
