"""Text in a request."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def _whole(text: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("half_a_character", "holds half a character (a lone surrogate)")
    return text


#: JSON can write half a character, which no tokenizer can read.
Text = Annotated[str, AfterValidator(_whole)]
