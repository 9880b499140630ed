"""The rules, sans-io: frames, ring cursors, the ledger of executions, the life of a graph.

Nothing here knows asyncio, os or Ray, so that property-based tests run the rules in milliseconds.
"""
