-- What binds session ids. Beside the audit trail's signing key it is the one secret that is kept as it is.
CREATE TABLE session_secrets (
    number INTEGER PRIMARY KEY,
    secret BLOB NOT NULL CHECK (length(secret) = 32),
    signs_from INTEGER NOT NULL
) STRICT;
