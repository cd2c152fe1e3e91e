"""What a message must tell: the numbers, names and fields in it, whatever its wording."""

import re


def tells(message: str, *parts: object) -> bool:
    """Whether the message has all parts."""
    return all(str(part) in message for part in parts)


def telling(*parts: object) -> str:
    """Pattern of such a message, for `pytest.raises(match=...)`."""
    return "(?s)" + "".join(f"(?=.*{re.escape(str(part))})" for part in parts)
