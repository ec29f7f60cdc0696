"""Extract every text of the interface, and keep the tables of translations in addon/language/locale/ in step with it.

    python3 tools/translations.py            print what the tables lack, and what they have too much
    python3 tools/translations.py update     add and remove it; then translate what is empty, in any PO editor

A text is a string that reads like one: several words, or one that begins with a capital. Which strings are none, though
they look like it, is said in NOT_TEXT. An f-string becomes a template: `f"{name} is gone."` is `{0} is gone.`, and one
with a choice of words becomes one template for each choice. Standard library only.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from addon.language import messages  # noqa: E402

LOCALE = CHECKOUT / "addon" / "language" / "locale"
SOURCES = ("addon", "backend/recdreamer/shared")
WORDS: tuple[str, ...] = (
    "starting", "running", "interrupted", "paused", "done", "failed", "damaged", "stopped", "saving…",  # Jobs.
    "measuring…", "geometry", "texture", "shape", "and", "target", "paint", "seams", "model",
    "front", "right", "back", "left",  # Poses.
    "installed", "found", "added", "incomplete", "available", "refused",  # Models.
    "Image model", "Pose extractor", "Tiny decoder",  # Kinds of models.
    "Figurines", "Animals",  # What the built-in models draw.
    "From", "Templates",  # Settings of a job, which are compared under the names of their fields.
)  # fmt: skip
"""Texts of one word that begin with a small letter, which nobody can tell from names in the code."""
TOLD = {"RequestError", "JobError", "ModelError", "Trouble", "Advice", "warning"}
"""What the backend tells the panel, by the names of the calls; all else that it says is for the terminal."""
BACKEND = (
    "job", "device.py", "presets.py", "generate.py", "catalog", "cluster", "prior", "pose", "stages", "start", "sdf",
    "mesh", "parallel", "cli/doctor.py", "cli/templates.py", "cli/models.py", "evaluation/inspect_mesh.py",
)  # fmt: skip
"""Rooms and files of the backend through which a job, or a command of the panel, goes."""
WHOLE = (
    "cli/doctor.py", "pose/check.py", "pose/anchoring.py", "stages/collapse.py", "catalog/refusals.py",
)  # fmt: skip
"""Files of them whose every text is shown."""
REFUSALS, CATALOG = "backend/recdreamer/catalog/refusals.py", "backend/recdreamer/catalog/catalog.toml"
"""Reasons that become sentences with the name of a model before them; and what the models are."""
NO_TEXT_FILES = (
    "addon/setup/uv.py",
    "addon/setup/locks.py",
    "addon/setup/report.py",
    "addon/setup/__main__.py",
)
"""Files whose strings are paths, options, or go to a log or a report in English."""
NO_TEXT_KEYWORDS = {
    "bl_idname", "bl_category", "icon", "subtype", "filter_glob", "prop", "mode", "encoding", "options", "format",
}  # fmt: skip
NO_TEXT_CALLS = {
    "compile", "search", "sub", "fullmatch", "match", "findall", "get", "startswith", "endswith", "removeprefix",
    "removesuffix", "split", "strip", "getattr", "setattr", "hasattr", "Thread", "Literal", "print", "which", "rglob",
    "encode", "decode", "strftime", "find", "count", "replace", "partition", "joinpath", "environ", "new", "log",
    "namedtuple", "TypeVar",
}  # fmt: skip


NOT_TEXT = {
    # Words of a prompt, which a model reads in English.
    "a red bear", "a wooden chair", "A red bear", "back view", "front view", "overhead view", "side view", "facing left",
    "facing right", "from back view", "from front view", "from side view, from back view", "close-up, highly detailed",
    "{0}, {1}", "an {0}", "black and white", "brown and white", "dark spotted", "dark brown", "no prompt yet",
    # Names of programs, packages, folders and Blender's data.
    "Library/Application Support/RecDreamer", "RecDreamer {0}", "UVMap", "Operator", "3D View Generic", "Library",
    "RecDreamer Preview", "Color", "Accept", "Darwin", "Linux", "Windows", "NVIDIA Corporation", "RecDreamer",
    "Stable Diffusion", "QuadriFlow", "ConsDreamer", "Perp-Neg",
    "Inpaint", "Upscale", "Debiased SDS", "CUDA 13", "CUDA 12.6", "Python", "Blender",
    # Commands, and what other programs say.
    (
        "import importlib, sys\nsys.path.insert(0, sys.argv.pop(1))\n"
        'importlib.import_module("backend.recdreamer.shared.parent_process").end_with_parent()\n'
        "sys.exit(importlib.import_module(sys.argv.pop(1)).main())"
    ),
    "from {0} import scripting; scripting.generate({1})", "{0}\nerror: {1}", "Hash mismatch", "FAILED: {0}",
    "No matching distribution found for uv", "missing wheel", "disk full", "error: {0} (os error {1})",
    "{0} (os error {1})", "{0}, {1}, [N/A], {2}", "uv, 20 MB", "Python {0}, 30 MB", "world is no matrix",
    # Of the report for developers, and of tables that nobody but a developer breaks.
    "Build", "{0}, current", "{0}, old", "data folder", "This is no line of a PO file: {0}",
    # Joins of parts, each of which is translated by itself.
    "{0} and {1}", ", and", "The {0} {1}", "{0}: {1} GB",
    # Too short to be told from others; only scripts can give such numbers.
    "{0} is {1}{2}.", "The weight {0}", "{0} cannot be {1}", "{0} is no finite number",
}  # fmt: skip
"""Strings that read like a text but are none."""


def templates_of(node: ast.expr) -> list[str]:
    """The templates of a string, of which an f-string with choices of words has several.

    >>> templates_of(ast.parse('f"{n} {{}} {\\'face\\' if n == 1 else \\'faces\\'}: {why}"', mode="eval").body)
    ['{0} {{}} face: {1}', '{0} {{}} faces: {1}']
    """
    if isinstance(node, ast.Constant):
        return pieces_of(node.value) if isinstance(node.value, str) else []
    if not isinstance(node, ast.JoinedStr):
        return []
    choices = dict.fromkeys(test for part in node.values if (test := _choice(part)[0]))
    found = []
    for taken in itertools.product((True, False), repeat=len(choices)):
        is_true = dict(zip(choices, taken, strict=True))
        text, count = "", 0
        for part in node.values:
            test, words = _choice(part)
            if isinstance(part, ast.Constant):
                text += str(part.value).replace("{", "{{").replace("}", "}}")
            elif test:
                text += words[not is_true[test]]
            else:
                text += f"{{{count}}}"
                count += 1
        found += pieces_of(text)
    return list(dict.fromkeys(found))


def pieces_of(template: str) -> list[str]:
    """Its pieces between wide spaces, each with numbers of its own: the panel translates them one by one.

    >>> pieces_of("{0}  ·  {1} left")
    ['{0}', '·', '{0} left']
    """
    pieces = []
    for piece in template.strip().split("  "):
        numbers = itertools.count()
        pieces.append(re.sub(r"\{\d+\}", lambda _, numbers=numbers: f"{{{next(numbers)}}}", piece.strip()))
    return [piece for piece in pieces if piece]


def _choice(part: ast.expr) -> tuple[str, tuple[str, str]]:
    """The test of a part of an f-string that chooses between two words, as of singular and plural, and the words.

    Empty strings if it does not.
    """
    match part:
        case ast.FormattedValue(
            value=ast.IfExp(
                test=test, body=ast.Constant(value=str(word)), orelse=ast.Constant(value=str(other))
            )
        ):
            return ast.unparse(test), (word, other)
    return "", ("", "")


def is_text(template: str) -> bool:
    """
    >>> [is_text(text) for text in ("Stop", "{0} is gone.", "no prompt yet", "{0} / {1}", "utf-8", "job_id")]
    [True, True, True, False, False, False]
    """
    words = messages.PLACE.sub("1", template).strip()
    is_short = len(words.split()) < 4
    if re.search(r"[\\<>|\[\]]", words) or (is_short and re.search("_|=|^-|://", words)):
        return False  # A pattern, an option, a name or an address.
    if not re.search("[A-Za-z]{2}", words):
        return False
    return " " in words or bool(re.fullmatch(r"[A-Z][a-z]+(-[A-Z]?[a-z]+)*[.…?!]?", words))


def strings_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and template of each string that may be a text."""
    skipped: set[int] = set()

    def skip(node: ast.AST) -> None:
        skipped.update(id(inner) for inner in ast.walk(node))

    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant()):
                skip(node)
            case ast.Subscript():
                skip(node.slice)
            case ast.Compare():
                skip(node)
            case ast.MatchValue():
                skip(node)
            case ast.AnnAssign() | ast.arg() if node.annotation is not None:
                if not isinstance(
                    node.annotation, ast.Call
                ):  # The annotations of Blender's properties are calls.
                    skip(node.annotation)
            case ast.FunctionDef() if node.returns is not None:
                skip(node.returns)
            case ast.keyword() if node.arg in NO_TEXT_KEYWORDS:
                skip(node)
            case ast.Assign(targets=[ast.Name(id=name)]) if name in NO_TEXT_KEYWORDS or name == "__all__":
                skip(node)
            case ast.Call():
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in NO_TEXT_CALLS:
                    for argument in (*node.args, *node.keywords):
                        skip(argument)
            case ast.JoinedStr():
                for part in node.values:
                    if isinstance(part, ast.Constant) or _choice(part)[0]:
                        skip(part)
                    elif isinstance(part, ast.FormattedValue) and part.format_spec is not None:
                        skip(part.format_spec)
    for node in ast.walk(tree):
        if id(node) not in skipped and isinstance(node, (ast.Constant, ast.JoinedStr)):
            for template in templates_of(node):
                yield node.lineno, template


def told_in(tree: ast.Module) -> ast.Module:
    """The arguments of the calls by which the backend tells the panel something."""
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in TOLD
    ]
    return ast.Module(
        [ast.Expr(ast.Tuple([*call.args, *(word.value for word in call.keywords)])) for call in calls], []
    )


def tooltips_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Docstrings of operators, menus and panels, which are their tooltips."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and re.match(r"RECDREAMER_(OT|MT|PT|UL)_", node.name):
            is_said = any(
                isinstance(line, ast.Assign) and getattr(line.targets[0], "id", "") == "bl_description"
                for line in node.body
            )
            text = ast.get_docstring(node)
            if text and not is_said:
                yield node.lineno, text


def messages_of(checkout: Path = CHECKOUT) -> dict[str, str]:
    """Message -> the first file that has it, in the order of the files."""
    found: dict[str, str] = dict.fromkeys(WORDS, "tools/translations.py")
    for path, tree in _trees(checkout):
        for _, text in sorted([*strings_of(tree), *tooltips_of(tree)]):
            if is_text(text) and text not in NOT_TEXT:
                text = sentence_of(text) if path == REFUSALS else text
                found.setdefault(text, path)
    for entry in tomllib.loads((checkout / CATALOG).read_text("utf-8"))["models"]:
        found.setdefault(entry["about"], CATALOG)
    return found


def sentence_of(reason: str) -> str:
    """
    >>> sentence_of("is distilled ({})"), sentence_of("Choose another.")
    ('{0} is distilled ({1}).', 'Choose another.')
    """
    if not reason.startswith(("is ", "has ")):
        return reason
    numbers = itertools.count(1)
    return f"{{0}} {re.sub(r'{[0-9]*}', lambda _: f'{{{next(numbers)}}}', reason)}."


def _trees(checkout: Path) -> Iterator[tuple[str, ast.Module]]:
    """Each file with texts, and what of it may have some."""
    backend = checkout / "backend" / "recdreamer"
    rooms = [*(checkout / source for source in SOURCES), *(backend / room for room in BACKEND)]
    for room in rooms:
        for path in [room] if room.suffix else sorted(room.rglob("*.py")):
            name = path.relative_to(checkout).as_posix()
            if name in NO_TEXT_FILES:
                continue
            tree = ast.parse(path.read_text("utf-8"))
            is_whole = name.startswith(SOURCES) or name.endswith(WHOLE)
            yield name, tree if is_whole else told_in(tree)


def kept_in(text: str) -> dict[str, str]:
    """Translations of texts that no file has now, which a PO file keeps behind `#~` for when they come back.

    >>> kept_in('msgid "Stop"\\nmsgstr "Stoppen"\\n\\n#~ msgid "Go"\\n#~ msgstr "Los"\\n')
    {'Go': 'Los'}
    """
    lines = [line.removeprefix("#~").strip() if line.startswith("#~") else "" for line in text.splitlines()]
    return messages.read_table("\n".join(lines))


def written(found: dict[str, str], table: dict[str, str], head: str) -> str:
    """A PO file with these messages, and the translations that there are of them and of others."""
    lines, place = [head.rstrip()], ""
    for message, name in found.items():
        lines.append("")
        if name != place:
            place = name
            lines.append(f"#: {name}")
        lines.append(f"msgid {quoted(message)}")
        lines.append(f"msgstr {quoted(table.get(message, ''))}")
    for message in sorted(table.keys() - found.keys()):
        if table[message]:
            lines += ["", f"#~ msgid {quoted(message)}", f"#~ msgstr {quoted(table[message])}"]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """
    >>> quoted('a "word"')
    '"a \\\\"word\\\\""'
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def faults_of(table: dict[str, str], found: dict[str, str]) -> list[str]:
    """What is wrong with a table: missing, needless and empty messages, and places of arguments that do not fit."""
    faults = [f"{name} has a new text: {text!r}" for text, name in found.items() if text not in table]
    faults += [f"no file has it any more: {text!r}" for text in table if text not in found]
    for text, translation in table.items():
        if not translation:
            faults.append(f"not translated: {text!r}")
        elif not set(messages.PLACE.findall(translation)) <= set(messages.PLACE.findall(text)):
            faults.append(f"has a place that the text has not: {translation!r}")
    return faults


def main() -> int:
    found, faults = messages_of(), []
    for path in sorted(LOCALE.glob("*.po")):
        text = path.read_text("utf-8")
        if sys.argv[1:] == ["update"]:
            head = text[: text.index("\n\n")] if "\n\n" in text else text
            table = kept_in(text) | messages.read_table(text)
            path.write_text(written(found, table, head), "utf-8")
            text = path.read_text("utf-8")
        faults += [f"{path.name}: {fault}" for fault in faults_of(messages.read_table(text), found)]
    print("\n".join(faults) or f"{len(found)} texts, each in every language.")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
