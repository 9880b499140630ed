"""Pages run on the event loop that their readers have: asyncio's."""

import asyncio


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop}
