//! What the URL of a PostgreSQL server says about TLS, in libpq's words, which the driver knows only in part.

use super::InvalidDatabase;
use std::path::PathBuf;

/// How a connection to PostgreSQL is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protection {
    /// `disable`: not at all.
    Disable,
    /// `prefer`: by TLS if the server has it, whoever it is.
    #[default]
    Prefer,
    /// `require`: by TLS. Who the server is is looked at only if root certificates are named.
    Require,
    /// `verify-ca`: by TLS, and the server's certificate leads to a trusted root.
    VerifyCa,
    /// `verify-full`: and it is the one of the host that was named.
    VerifyFull,
}

/// How to connect by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// How much is asked for.
    pub protection: Protection,
    /// Root certificates in PEM; else those that the system trusts.
    pub roots: Option<PathBuf>,
}

const MODES: [(&str, Protection); 5] = [
    ("disable", Protection::Disable),
    ("prefer", Protection::Prefer),
    ("require", Protection::Require),
    ("verify-ca", Protection::VerifyCa),
    ("verify-full", Protection::VerifyFull),
];

/// The URL as the driver reads it, and what it says about TLS.
pub(super) fn split(url: &str) -> Result<(String, Tls), InvalidDatabase> {
    let Some((server, options)) = url.split_once('?') else { return Ok((url.to_owned(), Tls::default())) };
    let mut tls = Tls::default();
    let mut rest = Vec::new();
    for option in options.split('&') {
        match option.split_once('=') {
            Some(("sslmode", mode)) => {
                let known = MODES.into_iter().find(|(name, _)| *name == mode);
                let (_, protection) = known.ok_or_else(|| {
                    let names = MODES.map(|(name, _)| name).join(", ");
                    InvalidDatabase::Postgres(format!("sslmode is `{mode}` and must be one of {names}"))
                })?;
                tls.protection = protection;
            }
            Some(("sslrootcert", "system")) => tls.roots = None,
            Some(("sslrootcert", path)) => {
                let faulty = || InvalidDatabase::Postgres("sslrootcert is no path".to_owned());
                tls.roots = Some(PathBuf::from(decoded(path).ok_or_else(faulty)?));
            }
            _ => rest.push(option.to_owned()),
        }
    }
    // What the driver must do by itself: ask for TLS, go on without it, or not ask.
    rest.push(match tls.protection {
        Protection::Disable => "sslmode=disable".to_owned(),
        Protection::Prefer => "sslmode=prefer".to_owned(),
        Protection::Require | Protection::VerifyCa | Protection::VerifyFull => "sslmode=require".to_owned(),
    });
    Ok((format!("{server}?{}", rest.join("&")), tls))
}

/// Without the `%2F`s that a URL may hold.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_says_about_tls_is_understood_and_the_rest_is_left_to_the_driver() {
        let of = |url: &str| split(url).unwrap();
        assert_eq!(of("postgres://db/ledger"), ("postgres://db/ledger".to_owned(), Tls::default()));
        let url =
            "postgres://db/ledger?sslmode=verify-full&connect_timeout=3&sslrootcert=/etc/my%20roots.pem";
        let roots = Some(PathBuf::from("/etc/my roots.pem"));
        assert_eq!(
            of(url),
            (
                "postgres://db/ledger?connect_timeout=3&sslmode=require".to_owned(),
                Tls { protection: Protection::VerifyFull, roots }
            )
        );
        assert_eq!(of("postgres://db/x?sslmode=require&sslrootcert=system").1.roots, None);
        let refused = split("postgres://db/x?sslmode=allow").unwrap_err().to_string();
        assert!(refused.contains("verify-full"), "{refused}");
    }
}
