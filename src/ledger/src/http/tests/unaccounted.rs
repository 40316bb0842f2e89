//! Reservations without a settlement, over a real socket: charged, listed, refunded, corrected.

use crate::fixture::{Bench, code, expect, new_uuid, pace, reserve_body, uuid_of};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

impl Bench {
    /// Makes a reservation of one second, and waits until it expires.
    pub(super) async fn expired_reservation(&self, id: &str, tenant: &str, key: &str, credits: u64) {
        let before = self.balance(tenant).await[3];
        self.post("/filter/v1/reserve", reserve_body(id, key, credits, 1), StatusCode::CREATED).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.balance(tenant).await[3] != before + credits {
            assert!(Instant::now() < deadline, "the reservation was not charged");
            pace().await;
        }
    }

    async fn correct(&self, tenant: &str, body: &Value, status: StatusCode) -> Value {
        self.post(&format!("/v1/tenants/{tenant}/corrections"), body.clone(), status).await
    }

    async fn reservations(&self, query: &str) -> Vec<Value> {
        self.get(&format!("/v1/reservations?{query}")).await["items"].as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unsettled_reservations_are_charged_listed_and_refunded_once() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(100).await;
    let (key, _) = bench.key(&tenant).await;
    bench.expired_reservation("r1", &tenant, &key, 10).await;
    bench.expired_reservation("r2", &tenant, &key, 20).await;
    assert_eq!(bench.balance(&tenant).await, [100, 70, 0, 30]);
    let listed = bench.reservations(&format!("state=unaccounted&tenant_id={tenant}")).await;
    assert_eq!(listed.len(), 2, "{listed:?}");
    let first = &listed[0];
    assert_eq!(
        (
            &first["id"],
            &first["key_id"],
            &first["tool"],
            &first["state"],
            &first["reserved"],
            &first["charged"]
        ),
        (
            &json!(uuid_of("r1")),
            &json!(key),
            &json!("image_generate"),
            &json!("unaccounted"),
            &json!(10),
            &json!(10)
        )
    );
    let page = bench.get("/v1/reservations?state=unaccounted&limit=1").await;
    assert_eq!(page["next_cursor"], uuid_of("r1"));
    let next = format!("state=unaccounted&cursor={}", uuid_of("r1"));
    assert_eq!(bench.reservations(&next).await[0]["id"], uuid_of("r2"));
    let metrics = bench.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("agentrelay_ledger_reservation_credits_unaccounted_total 30"), "{metrics}");
    assert!(metrics.contains("transfers_total{kind=\"unaccounted\"} 2"), "{metrics}");

    let back =
        json!({"direction": "refund", "amount": 10, "reason": "killed", "reservation_id": uuid_of("r1")});
    let given = bench.correct(&tenant, &back, StatusCode::CREATED).await;
    assert_eq!(given["balance"]["posted"], 20);
    let again = bench.correct(&tenant, &back, StatusCode::CONFLICT).await;
    assert_eq!(code(&again), "conflict");
    // Its settlement arrives later: the refund stays.
    assert_eq!(bench.settle("r1", json!({"action": "post", "credits": 10})).await["settled"], 1);
    assert_eq!(bench.settle("r2", json!({"action": "void"})).await["settled"], 1);
    assert_eq!(bench.balance(&tenant).await, [100, 100, 0, 0]);
    assert_eq!(bench.reservations("state=unaccounted").await, Vec::<Value>::new());
    assert_eq!(bench.reservations("state=corrected").await.len(), 2);
    let kinds = bench.get(&format!("/v1/audit?tenant_id={tenant}&limit=5")).await;
    let kinds: Vec<_> = kinds["items"].as_array().unwrap().iter().map(|row| row["kind"].clone()).collect();
    assert_eq!(kinds, ["correction", "correction", "credits_corrected", "unaccounted", "reserved"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_refund_names_a_reservation_or_a_key_and_only_one_of_them() {
    let bench = Bench::start().await;
    let (tenant, other) = (bench.tenant(100).await, bench.tenant(100).await);
    let (key, _) = bench.key(&tenant).await;
    bench.reserve("r1", &key, 10).await;
    bench.settle("r1", json!({"action": "post", "credits": 10})).await;
    let correction = |direction: &str, of: Value| {
        let mut body = json!({"direction": direction, "amount": 5, "reason": "x"});
        body.as_object_mut().unwrap().extend(of.as_object().unwrap().clone());
        body
    };
    for (whose, direction, of, status) in [
        (&tenant, "refund", json!({"reservation_id": uuid_of("r1"), "key_id": key}), StatusCode::BAD_REQUEST),
        (&tenant, "withdraw", json!({"reservation_id": uuid_of("r1")}), StatusCode::BAD_REQUEST),
        (&tenant, "withdraw", json!({"key_id": key}), StatusCode::BAD_REQUEST),
        (&tenant, "refund", json!({"reservation_id": ""}), StatusCode::BAD_REQUEST),
        (&tenant, "refund", json!({"reservation_id": uuid_of("r2")}), StatusCode::NOT_FOUND),
        (&tenant, "refund", json!({"key_id": "key_unknown"}), StatusCode::NOT_FOUND),
        (&other, "refund", json!({"reservation_id": uuid_of("r1")}), StatusCode::NOT_FOUND),
        (&other, "refund", json!({"key_id": key}), StatusCode::NOT_FOUND),
    ] {
        bench.correct(whose, &correction(direction, of), status).await;
    }
    assert_eq!(bench.balance(&tenant).await, [100, 90, 0, 10]);
    bench
        .correct(
            &tenant,
            &correction("refund", json!({"reservation_id": uuid_of("r1")})),
            StatusCode::CREATED,
        )
        .await;
    bench.correct(&tenant, &correction("refund", json!({"key_id": key})), StatusCode::CREATED).await;
    assert_eq!(bench.balance(&tenant).await, [100, 100, 0, 0]);
    let audit = bench.get("/v1/audit?kind=credits_corrected").await;
    let rows = audit["items"].as_array().unwrap();
    assert_eq!(
        (&rows[0]["detail"]["key_id"], &rows[1]["detail"]["reservation_id"]),
        (&json!(key), &json!(uuid_of("r1")))
    );
}

/// A budget of 20 is charged 20, all of it is refunded, and 5 are reserved.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrections_refund_is_free_in_the_budget_again() {
    let bench = Bench::start().await;
    for named in [json!({}), json!({"reservation_id": true}), json!({"key_id": true})] {
        for whose in ["tenants", "keys"] {
            let tenant = bench.tenant(1000).await;
            let (key, _) = bench.key(&tenant).await;
            let of = if whose == "tenants" { &tenant } else { &key };
            let budget = json!({"budget": 20, "reason": "pilot"});
            let path = format!("/v1/{whose}/{of}");
            let patch = bench.request(Method::PATCH, &path).json(&budget).send().await.unwrap();
            expect(patch, StatusCode::OK).await;
            let [first, early, later, more] = std::array::from_fn(|_| new_uuid());
            expect(bench.reserve(&first, &key, 20).await, StatusCode::CREATED).await;
            bench.settle(&first, json!({"action": "post", "credits": 20})).await;
            expect(bench.reserve(&early, &key, 5).await, StatusCode::PAYMENT_REQUIRED).await;
            let mut back = json!({"direction": "refund", "amount": 20, "reason": "it was down"});
            if named.get("reservation_id").is_some() {
                back["reservation_id"] = json!(first);
            }
            if named.get("key_id").is_some() {
                back["key_id"] = json!(key);
            }
            bench.correct(&tenant, &back, StatusCode::CREATED).await;
            assert_eq!(bench.get(&format!("{path}/budget")).await["spent"], 0, "{whose} {named}");
            expect(bench.reserve(&later, &key, 5).await, StatusCode::CREATED).await;
            expect(bench.reserve(&more, &key, 16).await, StatusCode::PAYMENT_REQUIRED).await;
        }
    }
}

/// An unsettled reservation counts as spent; a late settlement frees the difference.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_counts_calls_without_a_settlement() {
    let bench = Bench::start().await;
    let tenant = bench.tenant(1000).await;
    let (key, _) = bench.key(&tenant).await;
    let path = format!("/v1/keys/{key}");
    let budget = json!({"budget": 20, "reason": "pilot"});
    expect(bench.request(Method::PATCH, &path).json(&budget).send().await.unwrap(), StatusCode::OK).await;
    bench.expired_reservation("r1", &tenant, &key, 20).await;
    expect(bench.reserve("r2", &key, 5).await, StatusCode::PAYMENT_REQUIRED).await;
    bench.settle("r1", json!({"action": "post", "credits": 12})).await;
    assert_eq!(bench.get(&format!("{path}/budget")).await["spent"], 12);
    expect(bench.reserve("r3", &key, 9).await, StatusCode::PAYMENT_REQUIRED).await;
    expect(bench.reserve("r4", &key, 8).await, StatusCode::CREATED).await;
}
