"""Stats, pictures, timelines: reads the records of others, steers nothing."""
