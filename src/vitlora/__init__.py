"""A reproducible pipeline that fine-tunes a Vision Transformer with LoRA."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitlora.predict.classifier import Classifier as Classifier
    from vitlora.predict.classifier import PictureError as PictureError
    from vitlora.predict.classifier import Prediction as Prediction
    from vitlora.predict.pictures import Unreadable as Unreadable

# What people import, and where it is; loaded when asked for, since each stage imports this file too.
PUBLIC = {
    "Classifier": "vitlora.predict.classifier",
    "PictureError": "vitlora.predict.classifier",
    "Prediction": "vitlora.predict.classifier",
    "Unreadable": "vitlora.predict.pictures",
}


def __getattr__(name: str) -> object:
    if name not in PUBLIC:
        raise AttributeError(f"module 'vitlora' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(PUBLIC[name]), name)
