"""The observer inside Lightning and the Hugging Face Trainer; neither library is needed unless its callback is made."""

import importlib
from typing import Any

from analysis.observer import OpposingSignals

__all__ = ["lightning_callback", "trainer_callback"]


def _module(names: tuple[str, ...], install: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(f"this callback needs one of {', '.join(names)}, none is installed; pip install {install}")


def lightning_callback(signals: OpposingSignals) -> Any:
    """A Lightning ``Callback`` that takes the losses before the first update and after every one.

    Args:
        signals: Observer of the module or of the network in it.
    Raises:
        ImportError: If Lightning is not installed.
    """
    lightning = _module(("lightning.pytorch", "pytorch_lightning"), "lightning")

    class OpposingSignalsCallback(lightning.Callback):
        def __init__(self) -> None:
            self.signals = signals
            self._seen = -1

        def _take(self, step: int) -> None:
            if step > self._seen:  # batches that only accumulate gradients make no step
                self.signals.step(step)
                self._seen = step

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._take(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            self._take(trainer.global_step)

    return OpposingSignalsCallback()


def trainer_callback(signals: OpposingSignals) -> Any:
    """A Hugging Face ``TrainerCallback`` that takes the losses before the first update and after every one.

    Args:
        signals: Observer of the model that is trained; its data lie on the model's device.
    Raises:
        ImportError: If transformers is not installed.
    """
    transformers = _module(("transformers",), "transformers accelerate")

    class OpposingSignalsCallback(transformers.TrainerCallback):
        def __init__(self) -> None:
            self.signals = signals

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.signals.step(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.signals.step(state.global_step)

    return OpposingSignalsCallback()
