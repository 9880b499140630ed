"""In the caller's process: compile, deploy, the compiled graph, its futures and refs, and its supervision."""
