"""Runs of minutes: `python -m tests.soak --help`; ``nox -s soak`` and ``nox -s chaos``.

The soak does the same work over and over and asks whether every process holds what it held before. Chaos does
random work, kills actors meanwhile, and asks whether every result is right or a failure that had a reason.

parcels.py   what is sent through graphs: orders for the actors on its way, and a body that can be checked
shapes.py    the DAGs, and what must come of a parcel in each
actors.py    the actors that carry the orders out
outcomes.py  what may come of a call, given what was done to its graph; the counters
callers.py   the ways of calling: awaited, cancelled, with a deadline, from threads, never looked at
closing.py   the ways of compiling a graph and of ending it
soak.py      the soak: rounds of the same work, a sample after each
chaos.py     chaos: lives of graphs, while actors are killed
world.py     the actors of chaos: who sits where, and how one is killed
sampling.py  what a process holds, from /proc
verdict.py   flat or not; the table
record.py    the JSON record and the plot
"""
