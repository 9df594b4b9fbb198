"""Searches: points drawn at random, always the same ones, of which the worse are ended early."""

from dataclasses import dataclass
from typing import Any

from sweeps.protocol import Fits, Protocol, checked

SMALLER_IS_BETTER = ("perplexity", "eval_loss")


@dataclass(frozen=True)
class Search:
    """Points drawn at random, of which the worse are ended early (ASHA: Li et al. 2018, arXiv 1810.05934).

    Attributes:
        trials: points to draw.
        space: option → {distribution of ``ray.tune``: its arguments}.
        minimise: the key of ``summary.json``, perplexity or eval_loss, that ranks them after each validation.
        first_cut: optimizer steps after which a fit may be ended for the first time.
        reduction: of the fits that come to a cut one in so many goes on; cuts are at ``first_cut · reduction^k`` steps.
    """

    trials: int
    space: dict
    minimise: str = "perplexity"
    first_cut: int = 100
    reduction: int = 4


def search_of(protocol: Protocol) -> Search | None:
    """The search of a protocol, if it is one.

    Raises:
        ValueError: it is not well-formed, or has no end: ASHA compares at steps, so the fits need ``trainer.max_steps``.
    """
    fits = next(iter(protocol.stages.values()))  # with stages none has one
    if not fits.search:
        return None
    search = checked(Search, fits.search, "search")
    if not search.space:
        raise ValueError("search: the space is empty; give at least one option with its distribution")
    if search.minimise not in SMALLER_IS_BETTER:
        raise ValueError(f"search: minimise is {search.minimise!r}, expected {' or '.join(SMALLER_IS_BETTER)}")
    if search.reduction < 2:
        raise ValueError(f"search: reduction is {search.reduction}, expected 2 or more")
    if search.first_cut >= max_steps(fits):
        raise ValueError(f"search: first_cut is {search.first_cut}, expected less than trainer.max_steps")
    return search


def max_steps(fits: Fits) -> int:
    """Optimizer steps of a fit of a search."""
    if not isinstance(steps := fits.settings.get("trainer.max_steps"), int):
        raise ValueError(f"search: settings.trainer.max_steps is {steps!r}, expected the steps of a fit")
    return steps


def draw(search: Search) -> list[dict[str, Any]]:
    """The points of a search: always the same ones, so that an interrupted search goes on."""
    import numpy as np
    from ray import tune

    generator = np.random.RandomState(0)
    domains = {}
    for option, distribution in search.space.items():
        try:
            ((name, arguments),) = distribution.items()
            domains[option] = getattr(tune, name)(arguments) if name == "choice" else getattr(tune, name)(*arguments)
            domains[option].sample(random_state=np.random.RandomState(0))
        except (AttributeError, TypeError, ValueError, AssertionError) as error:
            example = "{loguniform: [1.0e-4, 1.0e-2]}"
            raise ValueError(f"search: {option} has {distribution!r}, expected one distribution as in {example}") from error
    return [
        {option: rounded(domain.sample(random_state=generator)) for option, domain in domains.items()}
        for _ in range(search.trials)
    ]


def rounded(value: Any) -> Any:
    """Numbers to three digits, as ordinary Python numbers."""
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.3g}") if isinstance(value, float) else value
