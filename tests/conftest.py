"""What all tests share: one thread for torch (tests run side by side), and a GPU, or numba-cuda's simulator of one."""

import os

import envs

os.environ.setdefault("OMP_NUM_THREADS", "1")
if not envs.has_gpu():
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"  # read when numba.cuda is first imported
