"""Texts of the interface in other languages: the tables in locale/, and which text a message is. No bpy here.

A message is an English sentence wherever it is made, kept or logged, also in a job folder, which may go to another
computer; `shared/` and the backend know of no other language. Only who shows it translates it: its template is
recognized, such as `{0} has no faces.` in "Cube has no faces.", and its arguments are put into the template of the
other language. `tools/translations.py` keeps the tables in step with the code.
"""

from __future__ import annotations

import ast
import re
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path

LOCALE = Path(__file__).parent / "locale"
"""Tables in the PO format of gettext, one for each language, named by Blender's code of the language."""
PLACE = re.compile(r"\{(\w*)(?:![rst])?\}")
"""The place of an argument. `{0!t}` in a translation says that the argument is itself a text to translate."""
MIN_LETTERS = 6
"""With fewer letters of its own, a template is recognized with quantities alone, as it would fit too many texts."""
QUANTITY, ANYTHING = r"((?:[-+\d.,]+ ?(?:h|min|s|[GM]B|%)? ?)+?)", r"((?:(?![.!?] [A-Z]).)*?)"
"""What an argument may be; none reaches from one sentence to the next."""
LISTS = (re.compile("(, and )"), re.compile("( and |, )"))
"""What separates the items of a list: first of one whose items may be lists themselves."""
SENTENCES = re.compile(r"(?<=[.!?]) (?=[A-Z\d'“])")


def read_table(text: str) -> dict[str, str]:
    """Messages and their translations from a PO file. Raises ValueError for what is none.

    >>> read_table('msgid "Stop"\\nmsgstr ""\\n"Stoppen"\\n')
    {'Stop': 'Stoppen'}
    """
    table: dict[str, str] = {}
    parts = {"msgid": "", "msgstr": ""}
    key = ""
    for line in [*text.splitlines(), ""]:
        line = line.strip()
        word, _, rest = line.partition(" ")
        if word in parts:
            key, line = word, rest
        if line.startswith('"') and key:
            parts[key] += ast.literal_eval(line)
        elif line == "":
            if parts["msgid"]:
                table[parts["msgid"]] = parts["msgstr"]
            parts, key = {"msgid": "", "msgstr": ""}, ""
        elif not line.startswith("#"):
            raise ValueError(f"This is no line of a PO file: {line[:80]}")
    return table


def read_tables(folder: Path = LOCALE) -> dict[str, dict[str, str]]:
    """Language -> its table. A damaged one is left out, with a line to the console: the interface stays English."""
    tables = {}
    for path in sorted(folder.glob("*.po")):
        try:
            tables[path.stem] = read_table(path.read_text("utf-8"))
        except (OSError, ValueError, SyntaxError) as error:
            print(f"{path.name} is left out: {error}", file=sys.stderr)
    return tables


class Templates:
    """The templates among the messages, to recognize texts that were made of them."""

    def __init__(self, messages: Iterable[str]) -> None:
        self._of_chunk: list[tuple[str, str]] = []
        """The longest piece of each template that is in every text of it, and the template, of most letters first."""
        found = []
        for template in messages:
            pieces = PLACE.split(template)[::2]
            if len(pieces) > 1:
                letters = sum(character.isalpha() for piece in pieces for character in piece)
                chunk = max(pieces, key=len).replace("{{", "{").replace("}}", "}")
                found.append((letters, chunk, template))
        self._of_chunk = [(chunk, template) for _, chunk, template in sorted(found, reverse=True)]
        self.find = lru_cache(maxsize=4096)(self._find)

    def _find(self, text: str, is_part: bool = False) -> tuple[str, Mapping[str, str]] | None:
        """The template of a text, and its arguments by name. A part of another text may be of a short template.

        >>> Templates(["{0} has no faces.", "{0} left"]).find("Cube has no faces.")
        ('{0} has no faces.', {'0': 'Cube'})
        >>> Templates(["{0} left"]).find("back left"), Templates(["{0} left"]).find("3 left")
        (None, ('{0} left', {'0': '3'}))
        """
        for chunk, template in self._of_chunk:
            if chunk in text:
                match = _pattern(template, is_part).fullmatch(text)
                if match is not None:
                    return template, {name[1:]: value for name, value in match.groupdict().items()}
        return None


@cache
def _pattern(template: str, is_part: bool) -> re.Pattern[str]:
    pieces = PLACE.split(template)
    is_short = sum(character.isalpha() for piece in pieces[::2] for character in piece) < MIN_LETTERS
    argument = QUANTITY if is_short and not is_part else ANYTHING
    seen: set[str] = set()
    pattern = ""
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            pattern += re.escape(piece.replace("{{", "{").replace("}}", "}"))
        elif piece in seen:
            pattern += f"(?P=a{piece})"
        else:
            seen.add(piece)
            pattern += argument.replace("(", f"(?P<a{piece}>", 1)
    return re.compile(pattern, re.DOTALL)


class _Filling(string.Formatter):
    """Formats a template; arguments with `!t` are translated."""

    def __init__(self, translate: Callable[[str], str]) -> None:
        self._translate = translate

    def get_value(self, key, args, kwargs):
        return kwargs[str(key)]

    def convert_field(self, value, conversion):
        return self._translate(value) if conversion == "t" else super().convert_field(value, conversion)


def translated(
    text: str, look_up: Callable[[str], str], templates: Templates, *, is_part: bool = False
) -> str:
    """A text in another language, as far as `look_up` knows it, which gives unknown messages back.

    A text of several sentences, or of pieces with wide spaces between them, is translated piece by piece.

    >>> table = {"{0} has no faces.": "{0} hat keine Flächen.", "Add some.": "Füge welche hinzu."}
    >>> translated("Cube has no faces. Add some.", lambda text: table.get(text, text), Templates(table))
    'Cube hat keine Flächen. Füge welche hinzu.'
    """
    if not text or (whole := look_up(text)) != text:
        return whole if text else text

    def part(inner: str) -> str:
        if len(inner) > 2 and inner[0] == inner[-1] == "'":
            return f"'{part(inner[1:-1])}'"
        found = translated(inner, look_up, templates, is_part=True)
        if found == inner and inner[:1].isupper():  # At the beginning of a sentence.
            small = inner[0].lower() + inner[1:]
            found = translated(small, look_up, templates, is_part=True)
            found = inner if found == small else found[0].upper() + found[1:]
        return found

    if "  " in text:
        return "  ".join(translated(piece, look_up, templates) for piece in text.split("  "))
    found = templates.find(text, is_part)
    if found is not None:
        template, arguments = found
        pattern = look_up(template)
        return text if pattern == template else _Filling(part).format(pattern, **arguments)
    for separator in LISTS if is_part else ():
        pieces = separator.split(text)
        if len(pieces) > 1:
            pieces[::2] = map(part, pieces[::2])
            pieces[1::2] = (between.replace("and", look_up("and")) for between in pieces[1::2])
            return "".join(pieces)
    sentences = SENTENCES.split(text)
    return " ".join(_runs(sentences, look_up, templates)) if len(sentences) > 1 else text


def _runs(sentences: list[str], look_up: Callable[[str], str], templates: Templates) -> Iterator[str]:
    """The longest runs of sentences that are messages, translated; what is none stays."""
    at = 0
    while at < len(sentences):
        for end in range(len(sentences), at, -1):
            run = " ".join(sentences[at:end])
            is_known = look_up(run) != run or (end - at < len(sentences) and templates.find(run) is not None)
            if is_known or end == at + 1:
                yield translated(run, look_up, templates) if end - at < len(sentences) else look_up(run)
                at = end
                break
