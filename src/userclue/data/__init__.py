"""From an event log to memory-mapped sequences: reading, checking, numbering, splitting. No torch but in `batches`."""
