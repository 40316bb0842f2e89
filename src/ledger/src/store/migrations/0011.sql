-- How far the ledger's clock had come, and before which day rows of the audit trail were removed last.
ALTER TABLE audit_state ADD COLUMN clock INTEGER;
ALTER TABLE audit_state ADD COLUMN removed_before INTEGER;
