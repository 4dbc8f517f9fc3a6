"""One file per figure: ``compute`` returns arrays, ``plot`` only draws."""
