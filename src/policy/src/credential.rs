//! Finds the one credential of a request.

use protocol::api_key::{self, KeyHash, Kind};

/// Headers as they arrived: name and value in bytes, names in lower case, duplicates in order.
pub type Headers<'a> = [(&'a [u8], &'a [u8])];

/// Why there is no credential to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request has no credential.
    Missing,
    /// The request has more than one credential.
    Several,
    /// The credential can't be an api key.
    Malformed,
}

/// The header that carries the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// `authorization: Bearer ...`
    Authorization,
    /// `x-api-key: ...`
    ApiKeyHeader,
}

impl Carrier {
    /// The header's name.
    pub const fn header(self) -> &'static str {
        match self {
            Carrier::Authorization => "authorization",
            Carrier::ApiKeyHeader => "x-api-key",
        }
    }
}

/// The value of a header, if the header is present exactly once.
pub fn single<'a>(headers: &Headers<'a>, name: &str) -> Option<&'a [u8]> {
    let mut values = all(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// Every value of a header.
pub fn all<'h, 'a: 'h>(headers: &'h Headers<'a>, name: &'h str) -> impl Iterator<Item = &'a [u8]> + 'h {
    headers.iter().filter(move |(own, _)| *own == name.as_bytes()).map(|(_, value)| *value)
}

/// True if the body with these headers has a content encoding.
pub fn is_encoded(headers: &Headers<'_>) -> bool {
    all(headers, "content-encoding").any(|value| !value.eq_ignore_ascii_case(b"identity"))
}

/// The credentials of one request.
#[derive(Debug, Default)]
pub struct Credentials<'h> {
    first: Option<(Carrier, &'h [u8])>,
    several: bool,
}

impl<'h> Credentials<'h> {
    /// Adds a credential.
    pub fn add(&mut self, carrier: Carrier, value: &'h [u8]) {
        self.several |= self.first.replace((carrier, value)).is_some();
    }

    /// Adds a credential under a name that some servers read as that of a credential header.
    pub fn add_lookalike(&mut self) {
        self.several = true;
    }

    /// The hash of the credential, which must be the only one. What can't be a key is refused without a lookup.
    pub fn find(&self) -> Result<(KeyHash, Carrier), Fault> {
        if self.several {
            return Err(Fault::Several);
        }
        let (carrier, value) = self.first.ok_or(Fault::Missing)?;
        let credential = match carrier {
            Carrier::Authorization => bearer(value).ok_or(Fault::Malformed)?,
            Carrier::ApiKeyHeader => value.trim_ascii(),
        };
        if !api_key::is_well_formed(Kind::Agent, credential) {
            return Err(Fault::Malformed);
        }
        Ok((KeyHash::of(credential), carrier))
    }
}

/// The value after `Bearer` (in any case) and blanks, see RFC 9110 section 11.4.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    (scheme.eq_ignore_ascii_case(b"bearer") && rest.starts_with(b" ")).then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        let mut next = 0u8;
        api_key::mint(Kind::Agent, || {
            next = next.wrapping_add(7);
            next
        })
    }

    #[test]
    fn exactly_one_well_formed_credential_is_accepted() {
        let key = key();
        let bearer = |scheme: &str| format!("{scheme} {key}").into_bytes();
        let (upper, lower, bare) = (bearer("BEARER"), bearer("bearer"), key.clone().into_bytes());
        let hash = KeyHash::of(key.as_bytes());
        let accepted = |headers: &[(Carrier, &[u8])]| {
            let mut sent = Credentials::default();
            headers.iter().for_each(|(carrier, value)| sent.add(*carrier, value));
            sent.find().map(|(hash, _)| hash)
        };
        const AUTHORIZATION: Carrier = Carrier::Authorization;
        const API_KEY: Carrier = Carrier::ApiKeyHeader;

        assert_eq!(accepted(&[(AUTHORIZATION, &upper)]), Ok(hash));
        assert_eq!(accepted(&[(AUTHORIZATION, &lower)]), Ok(hash));
        assert_eq!(accepted(&[(API_KEY, &bare)]), Ok(hash));
        assert_eq!(accepted(&[]), Err(Fault::Missing));
        assert_eq!(accepted(&[(AUTHORIZATION, &upper), (API_KEY, &bare)]), Err(Fault::Several));
        assert_eq!(accepted(&[(API_KEY, &bare), (API_KEY, &bare)]), Err(Fault::Several));
        for malformed in
            [b"".as_slice(), b"Bearer", b"Bearer ", b"Basic YTpi", b"Bearer \xff\xff", b"Bearerx y", &bare]
        {
            assert_eq!(accepted(&[(AUTHORIZATION, malformed)]), Err(Fault::Malformed), "{malformed:?}");
        }
    }
}
