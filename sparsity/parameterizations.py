"""Parameterizations: what the density of a tensor does to the size of its weights at the start and to that of its steps.

An output of a tensor with a share ρ of its weights adds up a share ρ of the terms that it has in a dense one: at the start it
is √ρ as large, and a step of Adam, which moves every weight by the learning rate, moves it ρ as far. So a sparse model that is
trained like a dense one learns too slowly where it is sparse, and with a higher rate too fast where it is dense.
"""

from typing import Literal, NamedTuple

Parameterization = Literal["standard", "sparse_mup"]


class Powers(NamedTuple):
    """Powers of the density by which something is multiplied.

    Attributes:
        initial: weights, when training starts from ones that were drawn at random.
        step: what an optimizer step adds to them, which is what a learning rate so much larger does.
    """

    initial: float
    step: float


PARAMETERIZATIONS: dict[Parameterization, Powers] = {
    "standard": Powers(initial=0.0, step=0.0),
    "sparse_mup": Powers(initial=-0.5, step=-1.0),
}
"""As for a dense model, or SµPar, with which outputs, gradients and steps do not depend on the density, nor does the best
learning rate (Dey et al. 2024, arXiv 2405.15743, section 3 and Table 1; of its two factors that of the density alone)."""
