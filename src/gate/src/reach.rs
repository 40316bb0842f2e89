//! Says in Envoy's log when the ledger can't be reached or refuses the filter's credential, and when that is over.

use crate::host::Host;
use crate::lock::Locked;
use crate::metrics::Metrics;
use crate::shared;
use policy::outage::{self, Failures, Line};
use policy::window::Monotonic;

/// How a call to the ledger ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Without an answer, or with an error of the server.
    Unanswered,
    /// The credential was refused.
    Refused,
    /// With any other answer.
    Answered,
}

/// What this VM knows of its calls.
#[derive(Default)]
pub struct Reach {
    unanswered: Trouble,
    refused: Trouble,
}

/// One kind of trouble. Only a VM that had it looks whether it is over, so that calls which go well cost nothing.
#[derive(Default)]
struct Trouble {
    is_mine: Locked<bool>,
}

type Step = fn(&[u8], Monotonic) -> Option<(Vec<u8>, Option<Line>)>;

impl Trouble {
    fn is<H: Host>(&self, there: bool, name: &str, metrics: &Metrics<H>) -> Option<Line> {
        if !self.is_mine.replace(there) && !there {
            return None;
        }
        let step: Step = if there { outage::failed } else { outage::succeeded };
        shared::change(name, H::monotonic_clock(), metrics, step).flatten()
    }
}

const UNANSWERED: &str = "agentrelay/reach/1/unanswered";
const REFUSED: &str = "agentrelay/reach/1/refused";

impl Reach {
    /// A call to the ledger, in this cluster of Envoy's, has ended with this answer, which is Envoy's own if there was none.
    pub fn ended<H: Host>(&self, how: Ended, cluster: &str, answer: &[u8], metrics: &Metrics<H>) {
        let answered = self.unanswered.is(how == Ended::Unanswered, UNANSWERED, metrics);
        let accepted = match how {
            Ended::Unanswered => None,
            how => self.refused.is(how == Ended::Refused, REFUSED, metrics),
        };
        match answered {
            Some(Line::Failing(Failures { calls, seconds })) => log::warn!(
                "the ledger does not answer: {calls} calls to cluster {cluster} failed in {seconds} s; {}",
                outage::remedy(answer)
            ),
            Some(Line::Over(Failures { calls, seconds })) => {
                log::warn!("the ledger answers again, after {seconds} s in which {calls} calls failed");
            }
            None => {}
        }
        match accepted {
            Some(Line::Failing(Failures { calls, seconds })) => log::error!(
                "the ledger refuses this filter's credential: {calls} calls in {seconds} s; put a valid one in \
                 AGENTRELAY_FILTER_KEY (agentrelay filter-keys create) and start Envoy again"
            ),
            Some(Line::Over(Failures { calls, seconds })) => {
                log::warn!(
                    "the ledger takes this filter's credential again, after {seconds} s and {calls} refused calls"
                );
            }
            None => {}
        }
    }
}
