-- Bounds on what a key has in flight.
ALTER TABLE keys ADD COLUMN concurrency TEXT;
