//! Time in tests: one runtime for all of them, deadlines, and polling.
//!
//! The only place that sleeps. Tests wait for a condition, with a deadline, or for a time that the gate itself
//! promised.

use crate::files;
use std::future::Future;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// For conditions that are met at once unless other tests use the two cores.
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// No usual test takes longer; one that does hangs.
const TEST_DEADLINE: Duration = Duration::from_secs(600);

/// It lives as long as the test process, because gates and upstreams are shared by tests and outlive each of them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // More than there are cores: a test that blocks one must not stop the upstreams and clients of all others.
    Builder::new_multi_thread().worker_threads(8).enable_all().build().expect("threads can be started")
});

/// Runs one test. If it fails, prints where the logs of its gates are.
pub fn run<Answer>(test: impl Future<Output = Answer>) -> Answer {
    run_within(TEST_DEADLINE, test)
}

/// The same for a test that does something a hundred times.
pub fn run_within<Answer>(deadline: Duration, test: impl Future<Output = Answer>) -> Answer {
    struct PrintLogs;
    impl Drop for PrintLogs {
        fn drop(&mut self) {
            if thread::panicking() {
                eprintln!("logs of Envoy and the ledger: {}", files::process_directory().display());
                files::keep();
            }
        }
    }
    let _say_logs = PrintLogs;
    let limited = async { tokio::time::timeout(deadline, test).await };
    RUNTIME.block_on(limited).expect("the test ends before its deadline")
}

/// Spawns a task that outlives the test.
pub fn spawn<Answer: Send + 'static>(
    future: impl Future<Output = Answer> + Send + 'static,
) -> JoinHandle<Answer> {
    RUNTIME.spawn(future)
}

/// Runs blocking work, such as a PostgreSQL client, on a thread where that is allowed, and waits for it.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|failure| std::panic::resume_unwind(failure))
}

/// Polls until there is an answer. Panics with what was missing last.
pub async fn eventually<Answer>(what: &str, probe: impl AsyncFnMut() -> Result<Answer, String>) -> Answer {
    eventually_within(DEADLINE, what, probe).await
}

/// Like [`eventually`], for a condition that is promised within a time.
pub async fn eventually_within<Answer>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<Answer, String>,
) -> Answer {
    let began = Instant::now();
    loop {
        let missing = match probe().await {
            Ok(answer) => return answer,
            Err(missing) => missing,
        };
        assert!(began.elapsed() < deadline, "{what}: not within {deadline:?}: {missing}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Waits for a promised time, such as that of a `Retry-After`.
pub async fn wait(promised: Duration) {
    tokio::time::sleep(promised).await;
}

/// Fails with `what` if `future` takes too long.
pub async fn in_time<Answer>(what: &str, future: impl Future<Output = Answer>) -> Result<Answer, String> {
    tokio::time::timeout(DEADLINE, future).await.map_err(|_| format!("{what}: nothing within {DEADLINE:?}"))
}
