-- A limit belongs to a key, an agent or a tenant. An Envoy's share says how many of its permits are used.
ALTER TABLE shares RENAME COLUMN key_id TO owner;
ALTER TABLE shares ADD COLUMN used INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0);
UPDATE changes SET change = replace(change, '"key_id"', '"owner"') WHERE change LIKE '{"kind":"share"%';
-- The Envoys that follow the change feed.
CREATE TABLE envoys (
    instance TEXT PRIMARY KEY,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX envoys_by_time ON envoys (seen_at);
