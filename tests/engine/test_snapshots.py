"""What a graph tells of itself once it is closed."""

from __future__ import annotations


async def test_bytes_are_still_told_when_the_graph_is_closed(make_stage):
    stage = make_stage(1)
    future = await stage.compiled.execute_async(b"1234")
    stage.parts[0].answer(7)
    await future
    before = stage.compiled.stats().bytes
    assert before >= 4
    stage.compiled.teardown()
    assert stage.compiled.stats().bytes == before
