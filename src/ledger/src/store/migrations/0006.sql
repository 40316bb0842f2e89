-- Issued keys: the parent key, and which of its secrets requested the key.
ALTER TABLE keys ADD COLUMN parent_id TEXT;
ALTER TABLE keys ADD COLUMN parent_hash BLOB;
CREATE INDEX keys_by_parent ON keys (parent_id, expires_at) WHERE parent_id IS NOT NULL;
