"""In each actor: the loop that reads, computes and writes, its control page, and how it is installed."""
