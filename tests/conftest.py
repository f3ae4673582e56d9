"""One thread a process: two workers do not fight over two cores, and losses do not depend on the number of cores.

Examples of property tests have no time limit, because a busy machine would break it.
"""

from __future__ import annotations

import os

from hypothesis import settings

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

settings.register_profile("house", deadline=None)
settings.load_profile("house")
