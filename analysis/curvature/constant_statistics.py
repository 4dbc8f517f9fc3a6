"""Normalisations whose saved statistics torch takes for constants: some of their higher derivatives are wrong."""

from torch import Tensor

__all__ = ["holds_constant_statistics"]


def holds_constant_statistics(value: Tensor) -> bool:
    r"""Whether a graph holds torch's LayerNorm, or BatchNorm with batch statistics, of something that varies.

    Their double backward is right. Wrong without a warning are third derivatives by reverse mode (pytorch issues
    175754, 186256) and second derivatives by nested forward mode (196699, 196700). Where the layer's input does not
    depend on the parameters, e.g. is the data, its statistics are constants indeed, and nothing is wrong.

    Args:
        value: Made from parameters that require a gradient, with its graph.
    """
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        following = [before for before, _ in node.next_functions]
        name = node.name()
        norm = "LayerNorm" in name or ("BatchNorm" in name and getattr(node, "_saved_training", True))
        if norm and following[0] is not None:
            return True
        waiting += following
    return False
