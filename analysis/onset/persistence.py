"""The lead repeats the approach."""

from typing import final

from .method import Lead, OnsetMethod
from .point import OnsetPoint

__all__ = ["Persistence"]


@final
class Persistence(OnsetMethod):
    r"""From the share f of the critical sharpness: as many steps as it took from $f^2$ to f (naive baseline).

    Where the rise began above $f^2$: as many as it took from its beginning.
    """

    name = "persistence"
    assumptions = ("the sharpness grows by equal factors in equal times",)

    def lead(self, point: OnsetPoint) -> Lead:
        """Steps since the sharpness was the same share of what it is now."""
        steps, values = point.rise()
        if not values[-1] > values[0]:
            return Lead(None)
        since = point.reached(point.share * float(values[-1]))
        return Lead(float(point.step - (steps[0] if since is None else since)))
