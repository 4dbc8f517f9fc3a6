"""The measures: what a claim can be about, one file a subject; every file here is imported, which registers them."""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
