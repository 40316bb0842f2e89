-- What a key may have under way.
ALTER TABLE keys ADD COLUMN concurrency TEXT;
