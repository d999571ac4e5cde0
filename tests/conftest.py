"""Settings that every test runs under."""

import torch

torch.set_num_threads(1)
