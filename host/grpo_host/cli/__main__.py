"""``python -m grpo_host.cli``."""

import sys

from grpo_host.cli import main

sys.exit(main())
