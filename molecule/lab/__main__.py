"""``python3 molecule/lab VERB``: see ``--help``."""

import sys

from ringfence_lab.cli import main

sys.exit(main(sys.argv[1:]))
