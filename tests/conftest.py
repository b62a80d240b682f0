"""What all tests share: one thread for torch (tests run side by side), and where compiled kernels are kept."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
