"""One thread a worker: with more, the threads of the workers wait for each other."""

import torch

torch.set_num_threads(1)
