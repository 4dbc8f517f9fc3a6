"""The measures: what a claim can be about, one file a subject."""

from . import edge, losses

__all__ = ["edge", "losses"]
