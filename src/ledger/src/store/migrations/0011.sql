-- The state of retention: the clock of the last pass, and the day before which it removed rows of the audit trail.
ALTER TABLE audit_state ADD COLUMN clock INTEGER;
ALTER TABLE audit_state ADD COLUMN removed_before INTEGER;
