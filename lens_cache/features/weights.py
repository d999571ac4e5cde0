"""Loading weights into a module: every weight must fit, and the error names those that do not."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from lens_cache.errors import CheckpointError

_SHOWN = 5


def load_strict(module: nn.Module, weights: Mapping[str, Tensor], doing: str, advice: str) -> None:
    """Copy weights into a module.

    Args:
        module: Receives the weights.
        weights: One for each entry of the module's state dict, and no other.
        doing: What is being done, the beginning of the error message.
        advice: What to run or change, the end of the error message.

    Raises:
        CheckpointError: If a weight is missing, unknown or of another shape; the message names it.
    """
    expected = module.state_dict()
    misshapen = {
        f"{name} (expected {tuple(expected[name].shape)}, found {tuple(weight.shape)})"
        for name, weight in weights.items()
        if name in expected and weight.shape != expected[name].shape
    }
    require_all_fit(
        doing,
        advice,
        missing=expected.keys() - weights.keys(),
        unknown=weights.keys() - expected.keys(),
        misshapen=misshapen,
    )
    module.load_state_dict(dict(weights))


def require_all_fit(
    doing: str,
    advice: str,
    *,
    missing: Collection[str],
    unknown: Collection[str],
    misshapen: Collection[str],
) -> None:
    """Refuse weights that do not fit a module; all three collections must be empty.

    Args:
        doing: What is being done, the beginning of the error message.
        advice: What to run or change, the end of the error message.
        missing: Weights that the module has and the checkpoint has not.
        unknown: Weights that the checkpoint has and the module has not.
        misshapen: Weights of another shape, with the two shapes where they are known.

    Raises:
        CheckpointError: If a collection is not empty; the message names its first weights.
    """
    problems = [
        f"{problem} ({len(names)}): {_shorten(names)}"
        for problem, names in (
            ("missing weights", missing),
            ("unknown weights", unknown),
            ("weights of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{doing}: {'; '.join(problems)}; {advice}")


def _shorten(names: Collection[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")
