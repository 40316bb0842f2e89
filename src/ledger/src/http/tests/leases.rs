//! Credits and permits in Envoys' hands, over a real socket.

use crate::fixture::Bench;
use reqwest::StatusCode;
use serde_json::{Value, json};

const LEASES: &str = "/filter/v1/leases";

fn round(instance: &str, parts: &Value) -> Value {
    let mut round = json!({"instance": instance, "envoy": "e1"});
    round.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    round
}

fn ask(lease_id: &str, tenant_id: &str, credits: u64, price: u64) -> Value {
    json!({"lease_id": lease_id, "tenant_id": tenant_id, "credits": credits, "price": price})
}

fn account(lease_id: &str, revision: u64, spent: u64, closed: bool) -> Value {
    json!({"lease_id": lease_id, "revision": revision, "spent": spent, "closed": closed})
}

impl Bench {
    async fn round(&self, instance: &str, parts: &Value) -> Value {
        self.post(LEASES, round(instance, parts), StatusCode::OK).await
    }

    async fn ask(&self, instance: &str, lease_id: &str, tenant_id: &str, credits: u64) -> u64 {
        let answer = self.round(instance, &json!({"asks": [ask(lease_id, tenant_id, credits, 1)]})).await;
        assert_eq!(answer["leases"][0]["lease_id"], lease_id);
        answer["leases"][0]["credits"].as_u64().unwrap()
    }

    async fn account(
        &self,
        instance: &str,
        lease_id: &str,
        revision: u64,
        spent: u64,
        closed: bool,
    ) -> Value {
        let accounts = [account(lease_id, revision, spent, closed)];
        self.round(instance, &json!({"accounts": accounts})).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_opened_spent_from_and_closed_and_every_step_again_moves_nothing() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1000).await;
    assert_eq!(bench.ask("i1", "l1", &tenant, 100).await, 100);
    assert_eq!(bench.ask("i1", "l1", &tenant, 100).await, 100);
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 100, 0]);
    for _ in 0..2 {
        let answer = bench.account("i1", "l1", 2, 40, false).await;
        assert_eq!((answer["lease_ttl_ms"].as_u64(), answer.get("ended")), (Some(30_000), None));
        assert_eq!(bench.balance(&tenant).await, [1000, 900, 60, 40]);
    }
    bench.account("i1", "l1", 1, 39, false).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 60, 40]);
    // Two calls failed.
    bench.account("i1", "l1", 3, 38, false).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 900, 62, 38]);
    bench.account("i1", "l1", 4, 70, true).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 930, 0, 70]);
    bench.account("i1", "l1", 5, 69, true).await;
    assert_eq!(bench.balance(&tenant).await, [1000, 931, 0, 69]);
    let late = bench.account("i1", "l1", 6, 70, false).await;
    assert_eq!(late["ended"], json!(["l1"]));
    assert_eq!(bench.ask("i1", "l1", &tenant, 100).await, 0);
    assert_eq!(bench.balance(&tenant).await, [1000, 931, 0, 69]);
    let audit = bench.get(&format!("/v1/audit?tenant_id={tenant}&limit=2")).await;
    let kinds: Vec<_> = audit["items"].as_array().unwrap().iter().map(|row| row["kind"].clone()).collect();
    assert_eq!(kinds, ["lease_closed", "lease_opened"]);
}
