"""How bytes move: a memory file with a ring on one host, a hand-over within one process.

A channel has one writer and N readers and carries one frame per execution, in order. Every kind passes the same
suite, `tests/channels/`; what they share is `interface.py`.
"""
