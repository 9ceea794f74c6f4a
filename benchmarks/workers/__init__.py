"""Workers: each runs in one environment, is told by JSON what to measure, and answers every line it reads with one JSON line."""
