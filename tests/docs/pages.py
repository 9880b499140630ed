"""Runs the Python blocks of a page, in order, in one namespace, on the running event loop and the Ray that runs.

What a page has to keep to:

- A ``python`` block runs as it stands, and may await. Where it cannot, the line before it says why:
  ``<!-- not run: needs a GPU -->``. It must be Python all the same.
- What is printed is on the page, and is compared. Either an ``output`` block follows, which is all that the block
  prints (``...`` stands for anything); or each print has a comment behind it, which is what it prints each time.
- A block that begins with a comment like ``# serve.py`` is that file. With an ``output`` block behind it, it is
  run as a program of its own; otherwise it is there for the programs that follow to import.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import io
import os
import re
import sys
import tokenize
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from inspect import CO_COROUTINE
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\s*\Z")
FILE_NAME = re.compile(r"# (\w+\.py)$", re.MULTILINE)
UNSEEN = {"", "py", "python3", "pycon", "ipython"}  # names under which Python would not be looked at
NOT_ON_THE_PAGE = "what this prints is not on the page: put it into a comment behind it, or into an output block"


@dataclass
class Block:
    """A block of Python on a page.

    Attributes:
        line: the line of the page on which its code begins.
        output: what the page says that it prints, if that is in a block of its own.
        not_run: why it is not run, if it is not.
    """

    page: Path
    line: int
    code: str
    output: str | None = None
    not_run: str | None = None
    printed: list[tuple[int, str]] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def file(self) -> str | None:
        named = FILE_NAME.match(self.code)
        return named[1] if named else None

    def compiled(self) -> Any:
        """Its code; the lines are those of the page, so that tracebacks show them."""
        padded = "\n" * (self.line - 1) + self.code
        return compile(padded, self.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def blocks_of(page: Path) -> list[Block]:
    """The blocks of Python on a page, each with the output that follows."""
    text = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    before = ""
    for fence in FENCE.finditer(text):
        indent, language, code = fence.groups()
        line = text.count("\n", 0, fence.start(3)) + 1
        assert language not in UNSEEN, f"{page.name}:{line}: say what it is (python, output, sh), not {language!r}"
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        if language == "python":
            reason = NOT_RUN.search(text[: fence.start()])
            blocks.append(Block(page, line, code, not_run=reason[1] if reason else None))
        elif language == "output":
            assert before == "python", f"{page.name}:{line}: output of what?"
            blocks[-1].output = code
        before = before if language == "sh" else language  # how a program is started
    return blocks


async def run_page(blocks: list[Block], folder: Path, address: str) -> None:
    """Run what is to be run, and compare what is printed.

    Args:
        blocks: the blocks of one page.
        folder: an empty one, for the files of the page.
        address: where Ray is, for programs.
    """
    printing: list[Block] = []  # the block that runs now is the last one

    def recording_print(*args: Any, **kwargs: Any) -> None:
        text = io.StringIO()
        print(*args, **{**kwargs, "file": text})
        printing[-1].printed.append((sys._getframe(1).f_lineno, text.getvalue().rstrip("\n")))
        print(*args, **kwargs)

    namespace: dict[str, Any] = {"__name__": "__main__", "print": recording_print}
    try:
        for block in blocks:
            if block.file is not None:
                (folder / block.file).write_text(block.code, encoding="utf-8")
            if block.not_run is not None:
                continue
            if block.file is not None:
                if block.output is not None:
                    check_output(block, await run_program(folder / block.file, address))
                continue
            printing.append(block)
            stdout = io.StringIO()
            code = block.compiled()
            with redirect_stdout(stdout):
                value = eval(code, namespace)
                if code.co_flags & CO_COROUTINE:
                    await value
            if block.output is not None:
                check_output(block, stdout.getvalue())
    finally:
        namespace.clear()
        gc.collect()  # its actors end
    lines = [line for block in printing for line in block.printed]
    for block in printing:
        if block.output is None:
            check_comments(block, lines)


async def run_program(path: Path, address: str) -> str:
    """Run a file as a reader would, on the Ray of the tests; returns what it prints."""
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        path.name,
        cwd=path.parent,
        env={**os.environ, "RAY_ADDRESS": address, "RAY_LOG_TO_DRIVER": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await program.communicate()
    assert program.returncode == 0, f"{path.name} ended with {program.returncode}:\n{stderr.decode()}"
    # What the raylet says to every program of a cluster is none of the program's.
    return "".join(line for line in stdout.decode().splitlines(keepends=True) if "(raylet)" not in line)


def check_output(block: Block, got: str) -> None:
    """What a block has printed is what the page says."""
    options = ELLIPSIS | NORMALIZE_WHITESPACE
    wanted = block.output or ""
    same = OutputChecker().check_output(wanted, got, options)
    assert same, f"{block.place}: the page says\n{wanted}\nand printed was\n{got}"


def check_comments(block: Block, printed: list[tuple[int, str]]) -> None:
    """What each print of a block has printed is what the comment behind it says."""
    tokens = tokenize.generate_tokens(io.StringIO(block.code).readline)
    comments = {token.start[0]: token.string[1:].strip() for token in tokens if token.type == tokenize.COMMENT}
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            first, last = (block.line - 1 + line for line in (node.lineno, node.end_lineno or node.lineno))
            place = f"{block.page.name}:{first}"
            texts = {text for line, text in printed if first <= line <= last}
            wanted = comments.get(node.end_lineno or node.lineno)
            assert wanted is not None, f"{place}: {NOT_ON_THE_PAGE}"
            assert texts == {wanted}, f"{place}: the page says {wanted!r}, and printed was {sorted(texts)}"
