"""Ray's compiled graph and async_adag, measured in one run: `python -m benchmarks --help`.

What is measured:

rows.py         rows of the table, and the figures that a measurement gives for them
workloads.py    what a workload is; everything.py has all of them
round_trips.py  an integer there and back, one after the other or many in flight
arrays.py       numpy arrays: there and back, to several readers, by an allreduce
scaling.py      by executions in flight, by actors in a chain, by graphs alive
lifetime.py     compiling a graph, and having one that idles
peers.py        `multiprocessing.Pipe` and pyzmq in Ray's place; echo.py is their other process
deaths.py       how soon the death of an actor is noticed

How:

graphs.py       the actors, and the shapes of graph
backends.py     Ray's compiled graph and async_adag behind one small interface
site.py         where and how long to measure
measure.py      loops that time calls, and percentiles; histogram.py keeps how times are distributed
idle.py         CPU time of processes that should do nothing
pinning.py      threads of this process and of actors, tied to a core
floor.py        what the machine itself can do: pingpong.c, compiled on the spot
suite.py        rounds over workloads, backends taking turns
machine.py      what ran here

What comes of it:

table.py        figures as text
record.py       the record of a run, as JSON
compare.py      two records, row by row
plots/          pictures of a record
"""
