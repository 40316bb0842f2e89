-- What the audit trail is searched by. The columns repeat what the detail says and are no part of a sealed row.
ALTER TABLE audit ADD COLUMN key_id TEXT;
ALTER TABLE audit ADD COLUMN service TEXT;
ALTER TABLE audit ADD COLUMN tool TEXT;
ALTER TABLE audit ADD COLUMN request_id TEXT;
UPDATE audit SET
    key_id = coalesce(detail ->> 'key_id', CASE WHEN substr(actor, 1, 4) = 'key_' THEN actor END),
    service = detail ->> 'service',
    tool = detail ->> 'tool',
    request_id = CASE WHEN event_id IS NULL THEN coalesce(detail ->> 'reservation_id', detail ->> 'request_id') END;
CREATE INDEX audit_by_key ON audit (key_id, sequence) WHERE key_id IS NOT NULL;
CREATE INDEX audit_by_tool ON audit (tool, sequence) WHERE tool IS NOT NULL;
CREATE INDEX audit_by_request ON audit (request_id) WHERE request_id IS NOT NULL;
