//! The Rust SDK of the ledger's admin API: one typed call per endpoint, bounded retries, idempotency keys.
//!
//! Its only state is a connection pool and the admin credential. The bodies are those of [`protocol::admin`]. Agents' calls
//! through the gate are ordinary MCP or HTTP and need no SDK.
//!
//! ```
//! # use axum::{Router, routing::get};
//! # async fn ledger() -> String {
//! #     let tenant = r#"{"id":"ten_1","name":"Acme","tier":"pro","created_at":"2026-11-22T20:00:00.000Z",
//! #         "balance":{"granted":1000,"available":1000,"pending":0,"posted":0}}"#;
//! #     let app = Router::new().route("/v1/tenants/ten_1", get(move || async move { tenant }));
//! #     let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
//! #     let url = format!("http://{}", listener.local_addr().unwrap());
//! #     tokio::spawn(async move { axum::serve(listener, app).await });
//! #     url
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), client::Error> {
//! # let (url, admin_key) = (ledger().await, "ara_example");
//! use client::Client;
//! use protocol::TenantId;
//!
//! let ledger = Client::new(&url, admin_key)?;
//! let tenant = ledger.tenant(&TenantId::parse("ten_1").unwrap()).await?;
//! assert_eq!(tenant.tier, "pro");
//! assert_eq!(tenant.balance.available.get(), 1000);
//! # Ok(())
//! # }
//! ```

mod calls;
mod error;
mod export;
mod tls;
mod transport;

pub use calls::{AuditQuery, KeyQuery, UsageGroup, UsageQuery};
pub use error::{Error, in_words};
pub use export::Export;
pub use tls::{http, trusting};
pub use transport::{Client, Tagged};
