"""Settings of all tests: one thread a worker, so that two workers do not fight over two cores."""

import os

# Before numpy or torch is imported: their thread pools read these once.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach out
