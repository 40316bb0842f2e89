-- Session secrets. Apart from the audit trail's signing key they are the only secrets that are stored unhashed.
CREATE TABLE session_secrets (
    number INTEGER PRIMARY KEY,
    secret BLOB NOT NULL CHECK (length(secret) = 32),
    signs_from INTEGER NOT NULL
) STRICT;
