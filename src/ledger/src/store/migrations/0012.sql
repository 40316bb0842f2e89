-- A tenant's report reads the tenant's rows.
CREATE INDEX usage_by_tenant ON usage (tenant_id, hour);
