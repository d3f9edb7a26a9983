"""A base model's licence, as the front matter of its card says it: it concerns every model that is made of it."""

import re
from pathlib import Path
from typing import Any

CARD = "README.md"
KEYS = ("license", "license_name", "license_link")  # as the Hub spells them
PLAIN = re.compile(r"[\w.+:/#?=&%~-]{1,200}")  # of an id, a name or an address; all else could be Markdown or HTML
# Ids of the Hub that timm's settings use; with another one there, the Hub knows it by its name only.
IDS = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")


def read_licence(folder: Path) -> dict[str, str]:
    """Return the fields on the licence in a model card's front matter; nothing where there is none, or none readable.

    A card that can't be read is no reason to refuse the model.
    """
    card = folder / CARD
    if not card.is_file():
        return {}
    from huggingface_hub import metadata_load

    try:
        found: Any = metadata_load(card)
    except Exception:  # the client's, yaml's, and those of text that is no UTF-8
        return {}
    values = found if isinstance(found, dict) else {}
    return {key: values[key] for key in KEYS if isinstance(values.get(key), str) and PLAIN.fullmatch(values[key])}


def licence_named(name: Any) -> dict[str, str]:
    """Return the fields for a licence that timm's settings name."""
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        return {}
    return {"license": name} if name in IDS else {"license": "other", "license_name": name}
