"""`python -m benchmarks NAME [--data DIR] [--json]`."""

import sys

from benchmarks import runner

sys.exit(runner.main(sys.argv[1:]))
