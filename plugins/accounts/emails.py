"""E-mail addresses: one spelling for each, and none that passes for another one.

Two people must never be told apart by what cannot be seen, nor one be mistaken for another by software that folds
letters differently. The rules follow Unicode's security mechanisms (UTS 39, "highly restrictive"), narrowed to what
addresses need.
"""

from __future__ import annotations

import re
import unicodedata

ADDRESS_MAX = 254
# Characters of an address as it is entered; normalization makes some shorter. The time that it takes grows with the
# square of the number of marks on a letter, and that of decoding IDNA with that of letters.
_ENTERED_MAX = 4 * ADDRESS_MAX
LOCAL_PART_MAX = 64
_LABEL_MAX = 63
_TOO_LONG = f"The address is longer than {ADDRESS_MAX} bytes, or {LOCAL_PART_MAX} characters before the @."
# RFC 5322, "atext", without quotation: nobody has a quoted address, and many programs read them wrongly.
_LOCAL_SIGNS = frozenset("!#$%&'*+-/=?^_`{|}~.")
_LOCAL_SIGN = re.compile(f"[{re.escape(''.join(sorted(_LOCAL_SIGNS)))}]")
# Letters of Latin that are no ASCII letter with an accent, and look like none.
_LATIN = frozenset("æðøþđħłŋœ")
# Letters of other scripts that look like ASCII ones; a word of nothing else looks like another word.
_LOOK_ALIKE = frozenset("асԁеԍһіјӏорԛѕԝхуьѵѡгпαγικνορτυχω")
# Scripts by the first word of the names of their letters. The others have too many letters that look like these.
_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC"})
_SCRIPTS = frozenset({"LATIN", "GREEK", "CYRILLIC", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI"})
# What may be combined in one word, as in East Asian ones; else there is one script.
_TOGETHER = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
)
_ACCENTED_SCRIPTS = frozenset({"LATIN", "GREEK", "CYRILLIC"})


def normalize_email(text: str) -> str:
    """Return the one spelling of an e-mail address that is stored and compared.

    Compatibility characters become ordinary ones (NFKC), letters lower case (case folding), and domains in the ASCII
    form of IDNA (``xn--``) those they stand for. So ``Ann@Example.com`` and ``ann@example.com`` are one address.

    Args:
        text: As somebody entered it; blanks around it do not count.

    Raises:
        ValueError: It is no address, is longer than 254 bytes, has control or invisible characters, mixes scripts in
            one word, or has only letters that look like others. Says which, for people.
    """
    if len(text) > _ENTERED_MAX:
        raise ValueError(_TOO_LONG)
    address = _fold(text.strip())
    local_part, at, domain = address.rpartition("@")
    if not (local_part and at and domain) or "@" in local_part:
        raise ValueError("Expected an e-mail address, such as ann@example.com.")
    domain = ".".join(map(_decode_label, domain.split(".")))
    address = f"{local_part}@{domain}"
    if len(address.encode("utf-8", "surrogatepass")) > ADDRESS_MAX or len(local_part) > LOCAL_PART_MAX:
        raise ValueError(_TOO_LONG)
    if not all(local_part.split(".")):
        raise ValueError("The part before the @ begins or ends with a dot, or has two in a row.")
    for character in local_part + domain:
        _ensure_plain(character)
    for word in _LOCAL_SIGN.split(local_part):
        _ensure_one_script(word)
    for label in domain.split("."):
        _ensure_label(label)
        _ensure_one_script(label.replace("-", ""))
    return address


def _fold(text: str) -> str:
    # Each of the two may undo the other, for a few letters.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", folded.casefold())


def _decode_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        decoded = label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError as ex:
        raise ValueError(f"The domain has a part that is not IDNA: {label:.80}.") from ex
    # Another domain than the folded one, or a second spelling of an ASCII one.
    if decoded.isascii() or _fold(decoded) != decoded:
        raise ValueError(f"The domain has a part that is not IDNA: {label:.80}.")
    return decoded


def _ensure_plain(character: str) -> None:
    """Ensure that a character can be seen, and stands for itself.

    Raises:
        ValueError: It is a control, invisible, unassigned or other special character.
    """
    if character.isascii():
        if character.isalnum() or character in _LOCAL_SIGNS:
            return
    elif unicodedata.category(character) in {"Ll", "Lo", "Lm", "Mn", "Mc"}:
        return
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    raise ValueError(f"The address has a character that it may not have: {name}.")


def _ensure_label(label: str) -> None:
    if not label or len(label) > _LABEL_MAX or label.startswith("-") or label.endswith("-"):
        raise ValueError("A part of the domain is empty, too long, or begins or ends with a hyphen.")
    if not _LOCAL_SIGNS.isdisjoint(label.replace("-", "")):
        raise ValueError("The domain has a character that it may not have.")


def _ensure_one_script(word: str) -> None:
    """Ensure that the letters of a word are of one script, and cannot all be mistaken for those of another one.

    Raises:
        ValueError: They are not, or can.
    """
    if word.isascii():
        return
    letters = [each for each in word if unicodedata.category(each).startswith("L")]
    scripts = {unicodedata.name(each, "?").partition(" ")[0] for each in letters}
    if unknown := sorted(scripts - _SCRIPTS - _EAST_ASIAN):
        raise ValueError(f"The address has letters of a script that is not accepted: {', '.join(unknown)}.")
    if len(scripts) > 1 and not any(scripts <= together for together in _TOGETHER):
        raise ValueError(f"The address mixes letters of {', '.join(sorted(scripts))} in one word.")
    # Composed already, where there is such a letter.
    if len(letters) < len(word.translate(_WITHOUT_DIGITS)) and (scripts & _ACCENTED_SCRIPTS or not letters):
        raise ValueError("The address has an accent that does not belong to its letter.")
    if "LATIN" in scripts and not all(map(_is_plain_latin, letters)):
        raise ValueError("The address has a letter that looks like another one.")
    if _LOOK_ALIKE.issuperset(letters):
        raise ValueError("The address consists of letters that look like those of another script.")


_WITHOUT_DIGITS = dict.fromkeys(map(ord, "0123456789"))


def _is_plain_latin(letter: str) -> bool:
    """Tell whether a letter is an ASCII letter, with or without accents, or one that looks like none; or not Latin."""
    if not unicodedata.name(letter, "").startswith("LATIN"):
        return True
    return unicodedata.normalize("NFD", letter)[0].isascii() or letter in _LATIN
