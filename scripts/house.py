"""Prints the figures of the house: how many rooms, how large, how dense. See `tests/test_house.py`
for what is enforced.

python scripts/house.py [ROOT]      # ROOT is clfunc if not given
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

from rich.console import Console
from rich.table import Table

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> list[str]:
    """The lines of a file that hold code: no blank line, no comment by itself, no docstring."""
    lines = text.splitlines()
    kept = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE:
            kept.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            docstring = node.body[0]
            kept.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return [lines[number - 1].rstrip() for number in sorted(kept) if lines[number - 1].strip()]


def function_lines(node: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    total = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        total -= docstring.end_lineno - docstring.lineno + 1
    return total


def functions(path: Path) -> list[tuple[int, str]]:
    """The length and the name of every function of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            found.append((function_lines(node), f"{path}:{node.name}"))
    return found


def mean_length(lines: list[str]) -> float:
    return sum(len(line.strip()) for line in lines) / len(lines)


def whole_length(lines: list[str]) -> float:
    """The mean length of a line with its indentation."""
    return sum(map(len, lines)) / len(lines)


def main(root: Path) -> None:
    console = Console(width=110, highlight=False)
    paths = sorted(root.rglob("*.py"))
    code = {path: code_lines(path.read_text()) for path in paths}
    every_line = [line for lines in code.values() for line in lines]
    lengths = {path: len(path.read_text().splitlines()) for path in paths}
    longest = max(lengths, key=lambda path: lengths[path])
    long_functions = sorted((pair for path in paths for pair in functions(path)), reverse=True)

    figures = Table(
        "figure", "value", "at most", title=f"the house of {root}", title_justify="left"
    )
    figures.add_row("modules at the top level", str(len(list(root.glob("*.py")))), "10")
    figures.add_row(
        "packages", str(sum((folder / "__init__.py").is_file() for folder in root.iterdir())), ""
    )
    figures.add_row("files, lines of code", f"{len(paths)}, {len(every_line)}", "")
    figures.add_row("longest file", f"{lengths[longest]} ({longest})", "400")
    figures.add_row(
        "longest function, docstring apart",
        f"{long_functions[0][0]} ({long_functions[0][1]})",
        "60",
    )
    figures.add_row(
        "functions over 60 lines", str(sum(length > 60 for length, _ in long_functions)), "0"
    )
    figures.add_row("mean line of code, characters", f"{whole_length(every_line):.1f}", "42")
    figures.add_row("the same without indentation", f"{mean_length(every_line):.1f}", "")
    figures.add_row("longest line of code", str(max(map(len, every_line))), "100")
    console.print(figures)

    dense = Table("the densest files", "mean line", "lines of code", title_justify="left")
    worth = [path for path in paths if len(code[path]) >= 20]
    for path in sorted(worth, key=lambda path: -whole_length(code[path]))[:12]:
        dense.add_row(str(path), f"{whole_length(code[path]):.1f}", str(len(code[path])))
    console.print(dense)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("clfunc"))
