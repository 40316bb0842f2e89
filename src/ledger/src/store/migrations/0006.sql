-- Keys that keys asked for: which key, and by which of its secrets.
ALTER TABLE keys ADD COLUMN parent_id TEXT;
ALTER TABLE keys ADD COLUMN parent_hash BLOB;
CREATE INDEX keys_by_parent ON keys (parent_id, expires_at) WHERE parent_id IS NOT NULL;
