//! PostgreSQL over TLS: the requested mode is used, and a wrong certificate is detected.

use crate::fixture::{Bench, apart, expect};
use crate::store::database::Database;
use crate::store::sql::{Connection, Purpose};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use reqwest::{Method, StatusCode};
use std::path::Path;
use throwaway::{Options, Throwaway};

/// A root, and a certificate for `localhost` that it signed, with its key.
struct Certificates {
    root: String,
    chain: String,
    key: String,
}

fn certificates(authority: &str) -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, authority);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Certificates { root, chain: leaf.pem(), key: key.serialize_pem() }
}

/// Connects. Returns whether the connection uses TLS, or why there is none.
fn is_encrypted(url: &str) -> Result<bool, String> {
    let database: Database = url.parse().unwrap();
    let select = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    apart(|| {
        let connection = Connection::open(&database, Purpose::Read).map_err(|error| error.to_string())?;
        Ok(connection.first(select, &[], |row| row.get(0)).unwrap().unwrap())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_by_tls_and_its_certificate_verified_if_configured() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (own, strange) = (certificates("own"), certificates("strange"));
    let (root, stranger) = (file("root.pem", &own.root), file("stranger.pem", &strange.root));
    let options = Options { tls: Some((own.chain, own.key)), ..Options::default() };
    let server = apart(|| Throwaway::with(&options).unwrap());
    let by_socket = apart(|| server.database().unwrap());
    let (_, name) = by_socket.rsplit_once('/').unwrap();
    let port = server.port().unwrap();
    let url = |host: &str, mode: &str, roots: Option<&Path>| {
        let roots = roots.map_or_else(String::new, |path| format!("&sslrootcert={}", path.display()));
        format!("postgres://ledger@{host}:{port}/{name}?sslmode={mode}{roots}")
    };

    assert_eq!(is_encrypted(&url("localhost", "verify-full", Some(&root))), Ok(true));
    assert_eq!(is_encrypted(&url("localhost", "require", None)), Ok(true));
    assert_eq!(is_encrypted(&url("localhost", "require", Some(&root))), Ok(true));
    assert_eq!(is_encrypted(&format!("postgres://ledger@localhost:{port}/{name}")), Ok(true));
    // With the name of another host, or signed by another authority.
    assert_eq!(is_encrypted(&url("127.0.0.1", "verify-ca", Some(&root))), Ok(true));
    for (refused, why) in [
        (url("127.0.0.1", "verify-full", Some(&root)), "not valid for name"),
        (url("localhost", "verify-full", Some(&stranger)), "UnknownIssuer"),
        (url("localhost", "verify-ca", Some(&stranger)), "UnknownIssuer"),
        (url("localhost", "require", Some(&stranger)), "UnknownIssuer"),
        (url("localhost", "verify-full", None), "UnknownIssuer"),
        (url("localhost", "verify-full", Some(Path::new("/nowhere.pem"))), "sslrootcert /nowhere.pem"),
        // The server accepts only TLS; its socket has no TLS.
        (url("localhost", "disable", None), "no encryption"),
        (format!("{by_socket}?sslmode=require"), "does not support TLS"),
    ] {
        let said = is_encrypted(&refused).unwrap_err();
        assert!(said.contains(why), "{refused}: {said}");
    }
    assert_eq!(is_encrypted(&by_socket), Ok(false));

    // A complete ledger: writer, readers and the listener for other ledgers' changes.
    let bench = Bench::start_on(&url("localhost", "verify-full", Some(&root)).parse().unwrap()).await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    expect(bench.reserve("r1", &key, 5).await, StatusCode::CREATED).await;
    assert_eq!(bench.balance(&tenant).await, [100, 95, 5, 0]);
    let ready = bench.request(Method::GET, "/readyz").send().await.unwrap().status();
    assert_eq!(ready, StatusCode::OK);
    bench.running.shutdown().await;
}
