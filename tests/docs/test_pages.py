"""Every Python block of the README and of docs/ runs, with real actors, and prints what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks_of, run_page

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): blocks
    for page in [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
    if (blocks := blocks_of(page))
}
NOT_RUN = {block.place: block for blocks in PAGES.values() for block in blocks if block.not_run}


@pytest.mark.parametrize("page", PAGES)
async def test_the_blocks_of(page, cluster, tmp_path):
    await run_page(PAGES[page], tmp_path, cluster)


@pytest.mark.parametrize("place", NOT_RUN)
def test_a_block_that_is_not_run_is_python_and_says_why(place):
    NOT_RUN[place].compiled()
    pytest.skip(f"{place}: {NOT_RUN[place].not_run}")


def page_of(folder: Path, text: str) -> list[Block]:
    page = folder / "page.md"
    page.write_text(text.replace("'''", "```"))
    return blocks_of(page)


GOOD = {
    "a comment": "'''python\nprint(1 + 1)  # 2\n'''",
    "in a function that is called later": "'''python\ndef f():\n    print('x')  # x\n'''\n\n'''python\nf()\n'''",
    "an output": "'''python\nfor n in range(2):\n    print(n)\n'''\n\n'''output\n0\n1\n'''",
    "some of an output": "'''python\nprint('took', 12.5, 's')\n'''\n'''output\ntook ... s\n'''",
    "awaited": "'''python\nimport asyncio\nprint(await asyncio.sleep(0, 'done'))  # done\n'''",
    "on several lines": "'''python\nprint(\n    1,\n    2,\n)  # 1 2\n'''",
    "indented": "1. One\n\n   '''python\n   print(1)  # 1\n   '''",
    "not run": "<!-- not run: not there -->\n'''python\nimport nothing\n'''",
    "a program": "'''python\n# one.py\nprint(__name__)\n'''\n'''output\n__main__\n'''",
}
BAD = {
    "another value": ("'''python\nprint(1 + 1)  # 3\n'''", "printed was ..2.."),
    "other values at times": ("'''python\nfor n in range(2):\n    print(n)  # 0\n'''", "printed was ..0., .1.."),
    "not reached": ("'''python\nif False:\n    print(1)  # 1\n'''", r"printed was \[\]"),
    "not on the page": ("'''python\nprint(1)\n'''", "not on the page"),
    "another output": ("'''python\nprint(1)\n'''\n'''output\n2\n'''", "printed was\n1"),
    "more than the output": ("'''python\nprint(1)\nprint(2)\n'''\n'''output\n1\n'''", "printed was\n1\n2"),
    "an output of nothing": ("'''output\n1\n'''", "output of what"),
    "another name for Python": ("'''py\n1 / 0\n'''", "not 'py'"),
    "no name at all": ("'''\n1 / 0\n'''", "not ''"),
    "a program that prints something else": ("'''python\n# one.py\nprint(1)\n'''\n'''output\n2\n'''", "was\n1"),
    "a program that fails": ("'''python\n# one.py\n1 / 0\n'''\n'''output\n'''", "ZeroDivisionError"),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
async def test_a_page_that_says_what_is_printed(text, tmp_path):
    await run_page(page_of(tmp_path, text), tmp_path, "")


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
async def test_a_page_that_does_not(text, message, tmp_path):
    with pytest.raises(AssertionError, match=message):
        await run_page(page_of(tmp_path, text), tmp_path, "")


async def test_a_block_that_raises_fails_its_page(tmp_path):
    with pytest.raises(ZeroDivisionError):
        await run_page(page_of(tmp_path, "'''python\n1 / 0\n'''"), tmp_path, "")


def test_every_page_with_blocks_is_found():
    assert "README.md" in PAGES
    assert "docs/api.md" in PAGES
