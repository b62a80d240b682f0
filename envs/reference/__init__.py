"""What is known about the sims: exact solvers and bounds (one file each), and a way to measure a policy's mean return."""
