"""``python3 examples/demo VERB``: see ``--help``."""

import sys

from ringfence_demo.cli import main

sys.exit(main(sys.argv[1:]))
