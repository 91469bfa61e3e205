"""What several test files start from."""

import os

# Before torch is imported, here and in processes that tests start: two trainings at once, each with a thread for every
# core, slow each other down many times over.
os.environ["OMP_NUM_THREADS"] = "1"
