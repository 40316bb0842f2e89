-- LLM tokens in the sums of usage.
ALTER TABLE usage ADD COLUMN input_usage_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN output_usage_tokens INTEGER NOT NULL DEFAULT 0;
