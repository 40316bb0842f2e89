//! Panics that a request asks for by a header, for tests that nothing passes after one. Only with the feature `faults`.

use crate::current;
use gate::Map;

/// Panics if the request's header `x-fault` names this place.
pub fn at(place: &str) {
    let Some(current) = current::current() else { return };
    if current.envoy.header(Map::RequestHeaders, "x-fault", |value| value == place.as_bytes()) {
        std::panic::resume_unwind(Box::new("asked for by a request"));
    }
}
