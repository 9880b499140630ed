"""Ray's compiled graph and async_adag, measured in one run: `python -m benchmarks --help`.

graphs.py     the actors, and the shapes of graph that are measured
backends.py   Ray's compiled graph and async_adag behind one small interface
workloads.py  what is measured on a graph, and the rows of the table that come of it
measure.py    loops that time calls, and percentiles
idle.py       CPU time of processes that should do nothing
pinning.py    threads of this process and of actors, tied to a core
floor.py      what the machine itself can do: pingpong.c, compiled on the spot
suite.py      rounds over workloads, backends taking turns
machine.py    what ran here
table.py      figures as text and as JSON
"""
