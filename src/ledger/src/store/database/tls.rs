//! The TLS parameters of a PostgreSQL URL, as in libpq. The driver knows only some of them.

use super::InvalidDatabase;
use std::path::PathBuf;

/// How a connection to PostgreSQL is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protection {
    /// `disable`: no TLS.
    Disable,
    /// `prefer`: TLS if the server offers it, without verification.
    #[default]
    Prefer,
    /// `require`: TLS. The certificate chain is verified only if root certificates are named.
    Require,
    /// `verify-ca`: TLS, and the certificate chain is verified.
    VerifyCa,
    /// `verify-full`: and the host name is verified.
    VerifyFull,
}

/// How to connect by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// What is required.
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

/// Splits the URL into one for the driver and the TLS parameters.
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
    // The driver only needs to know whether to ask for TLS and whether to continue without it.
    rest.push(match tls.protection {
        Protection::Disable => "sslmode=disable".to_owned(),
        Protection::Prefer => "sslmode=prefer".to_owned(),
        Protection::Require | Protection::VerifyCa | Protection::VerifyFull => "sslmode=require".to_owned(),
    });
    Ok((format!("{server}?{}", rest.join("&")), tls))
}

/// Decodes percent-encoding.
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
