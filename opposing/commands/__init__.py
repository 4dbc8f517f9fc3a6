"""One module a command: a frozen dataclass of its options, ``parse`` and ``run``."""
