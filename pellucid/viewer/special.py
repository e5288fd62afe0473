"""Which tokens are no text but signs to the model, as [CLS] and </s> are.

They are known by their form, for a record keeps no tokenizer: here are the signs that models in use are given, and
whatever is written <|…|>. A text that has such a sign in it as one token is not told apart from the sign itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAGS = (
    "bos", "eos", "pad", "unk", "mask", "sep", "cls", "s", "eod", "eop", "start_of_turn", "end_of_turn",
    "start_of_image", "end_of_image", "image", "image_soft_token",
)  # fmt: skip
_FORMS = re.compile(
    r"<[|｜][^<>\s]{1,64}[|｜]>"  # <|endoftext|>, <｜begin▁of▁sentence｜>
    rf"|</?(?:{'|'.join(_TAGS)})>"
    r"|<(?:extra_id_|unused|reserved_)\d+>"  # T5's sentinels, Gemma's and others' spare ones
    r"|\[(?:CLS|SEP|PAD|MASK|UNK|BOS|EOS|INST|/INST|IMG|IMG_BREAK|IMG_END|gMASK|sMASK|unused\d+)\]"
)


def places(tokens: Sequence[str]) -> list[int]:
    """The indices of these tokens."""
    return [number for number, token in enumerate(tokens) if token[:1] in ("<", "[") and _FORMS.fullmatch(token)]
