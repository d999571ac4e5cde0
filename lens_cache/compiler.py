"""Whether torch.compile can work here."""

from __future__ import annotations

import torch

from lens_cache.errors import ConfigError


def require_compiler() -> None:
    """Refuse to compile where no compiler is.

    Raises:
        ConfigError: If torch.compile cannot make a kernel; the message says why.
    """

    def probe(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.compile(probe)(torch.ones(4, device=device))
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"setting up trainer.compile: torch.compile made no kernel for {device} "
            f"({type(error).__name__}: {first}); install a C++ compiler such as g++, or set "
            "trainer.compile=false"
        ) from None
