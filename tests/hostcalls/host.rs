//! The host of the filter, in place of Envoy: every function that the module imports, with each call counted.
//!
//! It keeps the rules that the filter relies on (shared data, metrics, the active context). It traps on what Envoy
//! would refuse: an unknown function, or a stream's headers read from another context.

use std::collections::{BTreeMap, HashMap, VecDeque};
use wasmi::{Caller, Error, Linker, Memory, TypedFunc};

/// Headers, in order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
type Guest<'g> = Caller<'g, Host>;

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const CAS_MISMATCH: u32 = 8;
const INTERNAL_FAILURE: u32 = 10;
/// The date on which every test begins.
const BEGINS_NANOS: u64 = 1_790_000_000_000_000_000;
/// Maps and buffers that belong to the stream, not to the answer of a call.
const STREAM_MAPS: u32 = 4;
const STREAM_BUFFERS: u32 = 2;

/// A call to the ledger.
#[derive(Debug, Clone)]
pub struct Call {
    /// The id of its answer.
    pub id: u32,
    pub headers: Pairs,
    pub body: Vec<u8>,
    /// When it was started, in milliseconds.
    pub at_ms: u64,
}

impl Call {
    /// The path, without a query.
    pub fn path(&self) -> String {
        let path = self.headers.iter().find(|(name, _)| name == b":path").expect("a call has a path");
        String::from_utf8_lossy(&path.1).into_owned()
    }
}

/// A reply that the filter sent itself.
#[derive(Debug, Clone)]
pub struct LocalReply {
    pub status: u32,
    pub headers: Pairs,
    pub body: Vec<u8>,
}

/// The state behind the functions.
#[derive(Default)]
pub struct Host {
    /// Milliseconds since the test began.
    pub nanos: u64,
    pub maps: BTreeMap<u32, Pairs>,
    pub buffers: BTreeMap<u32, Vec<u8>>,
    pub shared: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    /// The name of a shared data value that refuses writes.
    pub read_only: Option<&'static str>,
    /// No call to the ledger can be started, as if its cluster were missing.
    pub refuses_calls: bool,
    pub metrics: Vec<(String, i64)>,
    pub calls: VecDeque<Call>,
    pub reply: Option<LocalReply>,
    /// The held request was resumed.
    pub is_resumed: bool,
    /// Log lines of at least the level warn.
    pub warnings: Vec<String>,
    /// The stream to which the maps and buffers belong.
    pub stream: u32,
    /// The active context.
    pub effective: u32,
    /// The current callback.
    pub callback: &'static str,
    /// Calls by callback and name.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// The functions and the memory of the module.
    pub inside: Option<(Memory, TypedFunc<u32, u32>)>,
    environment: Vec<String>,
    revisions: u32,
    calls_started: u32,
    drawn: u64,
}

impl Host {
    /// A host with these environment variables, as `NAME=value`.
    pub fn new(environment: Vec<String>) -> Host {
        Host { environment, ..Host::default() }
    }

    /// The host after the VM on it has ended, with its shared data.
    pub fn without_vm(self) -> Host {
        let Host { nanos, shared, environment, revisions, calls_started, drawn, .. } = self;
        Host { nanos, shared, environment, revisions, calls_started, drawn, ..Host::default() }
    }

    /// The date in milliseconds.
    pub fn wall_ms(&self) -> u64 {
        (BEGINS_NANOS + self.nanos) / 1_000_000
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> i64 {
        self.metrics.iter().find(|(own, _)| own == name).map_or(0, |(_, value)| *value)
    }

    fn map(&mut self, kind: u32) -> Result<&mut Pairs, Error> {
        self.check(kind < STREAM_MAPS)?;
        Ok(self.maps.entry(kind).or_default())
    }

    fn check(&self, is_of_stream: bool) -> Result<(), Error> {
        if is_of_stream && self.effective != self.stream {
            return Err(Error::new(format!("{} means a stream and is in {}", self.callback, self.effective)));
        }
        Ok(())
    }
}

/// Access to the memory of the module.
trait GuestMemory {
    fn count(&mut self, name: &'static str);
    fn read(&self, address: u32, size: u32) -> Vec<u8>;
    fn write(&mut self, address: u32, bytes: &[u8]) -> Result<(), Error>;
    /// Writes bytes into memory that the module allocates, as Envoy does.
    fn write_bytes(&mut self, bytes: &[u8], address: u32, size: u32) -> Result<u32, Error>;
}

impl GuestMemory for Guest<'_> {
    fn count(&mut self, name: &'static str) {
        let host = self.data_mut();
        *host.counts.entry((host.callback, name)).or_default() += 1;
    }

    fn read(&self, address: u32, size: u32) -> Vec<u8> {
        let (memory, _) = self.data().inside.expect("the module has started");
        memory.data(self)[address as usize..][..size as usize].to_vec()
    }

    fn write(&mut self, address: u32, bytes: &[u8]) -> Result<(), Error> {
        let (memory, _) = self.data().inside.expect("the module has started");
        memory.write(self, address as usize, bytes).map_err(|error| Error::new(error.to_string()))
    }

    fn write_bytes(&mut self, bytes: &[u8], address: u32, size: u32) -> Result<u32, Error> {
        let mut place = 0;
        if !bytes.is_empty() {
            let (_, allocate) = self.data().inside.expect("the module has started");
            place = allocate.call(&mut *self, bytes.len() as u32)?;
            self.write(place, bytes)?;
        }
        self.write(address, &place.to_le_bytes())?;
        self.write(size, &(bytes.len() as u32).to_le_bytes())?;
        Ok(OK)
    }
}

/// Defines one function, with each call counted.
macro_rules! define {
    ($linker:ident, $module:literal, $name:ident, |$guest:ident, $($arg:ident: $kind:ty),*| $body:expr) => {
        $linker.func_wrap(
            $module,
            stringify!($name),
            |mut $guest: Guest<'_>, $($arg: $kind),*| -> Result<u32, Error> {
                $guest.count(stringify!($name));
                $body
            },
        )?;
    };
}

/// Everything that the module may import. Any other import traps when it is called.
pub fn define(linker: &mut Linker<Host>) -> Result<(), Error> {
    headers(linker)?;
    stream(linker)?;
    shared(linker)?;
    system(linker)
}

fn headers(linker: &mut Linker<Host>) -> Result<(), Error> {
    define!(linker, "env", proxy_get_header_map_pairs, |guest, kind: u32, data: u32, size: u32| {
        let bytes = serialise(guest.data_mut().map(kind)?);
        guest.write_bytes(&bytes, data, size)
    });
    define!(
        linker,
        "env",
        proxy_get_header_map_value,
        |guest, kind: u32, name: u32, name_size: u32, data: u32, size: u32| {
            let name = guest.read(name, name_size);
            let found = guest.data_mut().map(kind)?.iter().find(|(own, _)| *own == name).cloned();
            match found {
                Some((_, value)) => guest.write_bytes(&value, data, size),
                None => Ok(NOT_FOUND),
            }
        }
    );
    define!(
        linker,
        "env",
        proxy_replace_header_map_value,
        |guest, kind: u32, name: u32, name_size: u32, value: u32, value_size: u32| {
            let (name, value) = (guest.read(name, name_size), guest.read(value, value_size));
            let map = guest.data_mut().map(kind)?;
            map.retain(|(own, _)| *own != name);
            map.push((name, value));
            Ok(OK)
        }
    );
    define!(linker, "env", proxy_remove_header_map_value, |guest, kind: u32, name: u32, name_size: u32| {
        let name = guest.read(name, name_size);
        guest.data_mut().map(kind)?.retain(|(own, _)| *own != name);
        Ok(OK)
    });
    Ok(())
}

fn stream(linker: &mut Linker<Host>) -> Result<(), Error> {
    define!(
        linker,
        "env",
        proxy_get_buffer_bytes,
        |guest, kind: u32, start: u32, max: u32, data: u32, size: u32| {
            guest.data().check(kind < STREAM_BUFFERS)?;
            let buffer = guest.data().buffers.get(&kind).cloned();
            match buffer {
                Some(buffer) => {
                    let rest = buffer.get(start as usize..).unwrap_or_default();
                    guest.write_bytes(&rest[..rest.len().min(max as usize)], data, size)
                }
                None => Ok(NOT_FOUND),
            }
        }
    );
    define!(
        linker,
        "env",
        proxy_set_buffer_bytes,
        |guest, kind: u32, _start: u32, _size: u32, data: u32, length: u32| {
            guest.data().check(kind < STREAM_BUFFERS)?;
            let bytes = guest.read(data, length);
            guest.data_mut().buffers.insert(kind, bytes);
            Ok(OK)
        }
    );
    define!(linker, "env", proxy_continue_stream, |guest, _kind: u32| {
        guest.data().check(true)?;
        guest.data_mut().is_resumed = true;
        Ok(OK)
    });
    define!(
        linker,
        "env",
        proxy_send_local_response,
        |guest,
         status: u32,
         _details: u32,
         _details_size: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         _grpc_status: u32| {
            guest.data().check(true)?;
            let headers = parse(&guest.read(headers, headers_size));
            let body = guest.read(body, body_size);
            guest.data_mut().reply = Some(LocalReply { status, headers, body });
            Ok(OK)
        }
    );
    define!(linker, "env", proxy_set_effective_context, |guest, context_id: u32| {
        guest.data_mut().effective = context_id;
        Ok(OK)
    });
    define!(linker, "env", proxy_get_property, |guest, path: u32, path_size: u32, data: u32, size: u32| {
        match guest.read(path, path_size).as_slice() {
            b"xds\0node\0id" => guest.write_bytes(b"envoy-1", data, size),
            _ => Ok(NOT_FOUND),
        }
    });
    define!(
        linker,
        "env",
        proxy_set_property,
        |guest, _path: u32, _path_size: u32, _value: u32, _value_size: u32| {
            guest.data().check(true)?;
            Ok(OK)
        }
    );
    define!(linker, "env", proxy_http_call, |guest,
                                             _cluster: u32,
                                             _cluster_size: u32,
                                             headers: u32,
                                             headers_size: u32,
                                             body: u32,
                                             body_size: u32,
                                             _trailers: u32,
                                             _trailers_size: u32,
                                             _timeout_ms: u32,
                                             call_id: u32| {
        let headers = parse(&guest.read(headers, headers_size));
        let body = guest.read(body, body_size);
        let host = guest.data_mut();
        if host.refuses_calls {
            return Ok(INTERNAL_FAILURE);
        }
        host.calls_started += 1;
        let (id, at_ms) = (host.calls_started, host.nanos / 1_000_000);
        host.calls.push_back(Call { id, headers, body, at_ms });
        guest.write(call_id, &id.to_le_bytes())?;
        Ok(OK)
    });
    Ok(())
}

fn shared(linker: &mut Linker<Host>) -> Result<(), Error> {
    define!(
        linker,
        "env",
        proxy_get_shared_data,
        |guest, name: u32, name_size: u32, data: u32, size: u32, revision: u32| {
            let name = guest.read(name, name_size);
            let found = guest.data().shared.get(&name).cloned();
            match found {
                Some((value, own)) => {
                    guest.write(revision, &own.to_le_bytes())?;
                    guest.write_bytes(&value, data, size)
                }
                None => Ok(NOT_FOUND),
            }
        }
    );
    define!(
        linker,
        "env",
        proxy_set_shared_data,
        |guest, name: u32, name_size: u32, value: u32, value_size: u32, revision: u32| {
            let (name, value) = (guest.read(name, name_size), guest.read(value, value_size));
            let host = guest.data_mut();
            if host.read_only.is_some_and(|read_only| read_only.as_bytes() == name) {
                return Ok(INTERNAL_FAILURE);
            }
            if let Some((_, own)) = host.shared.get(&name)
                && revision != 0
                && revision != *own
            {
                return Ok(CAS_MISMATCH);
            }
            host.revisions += 1;
            host.shared.insert(name, (value, host.revisions));
            Ok(OK)
        }
    );
    define!(linker, "env", proxy_define_metric, |guest, _kind: u32, name: u32, name_size: u32, id: u32| {
        let name = String::from_utf8_lossy(&guest.read(name, name_size)).into_owned();
        let metrics = &mut guest.data_mut().metrics;
        let known = metrics.iter().position(|(own, _)| *own == name);
        let place = known.unwrap_or_else(|| {
            metrics.push((name, 0));
            metrics.len() - 1
        });
        guest.write(id, &(place as u32).to_le_bytes())?;
        Ok(OK)
    });
    define!(linker, "env", proxy_record_metric, |_guest, _id: u32, _value: u64| Ok(OK));
    define!(linker, "env", proxy_increment_metric, |guest, id: u32, offset: i64| {
        guest.data_mut().metrics[id as usize].1 += offset;
        Ok(OK)
    });
    Ok(())
}

fn system(linker: &mut Linker<Host>) -> Result<(), Error> {
    define!(linker, "env", proxy_log, |guest, level: u32, text: u32, size: u32| {
        const WARN: u32 = 3;
        if level >= WARN {
            let text = String::from_utf8_lossy(&guest.read(text, size)).into_owned();
            guest.data_mut().warnings.push(text);
        }
        Ok(OK)
    });
    define!(linker, "env", proxy_set_tick_period_milliseconds, |guest, _period_ms: u32| Ok(OK));
    define!(linker, "env", proxy_get_current_time_nanoseconds, |guest, time: u32| {
        let nanos = BEGINS_NANOS + guest.data().nanos;
        guest.write(time, &nanos.to_le_bytes())?;
        Ok(OK)
    });
    define!(
        linker,
        "wasi_snapshot_preview1",
        clock_time_get,
        |guest, _clock: u32, _precision: u64, time: u32| {
            // A machine that has been up for an hour.
            let nanos = 3_600_000_000_000 + guest.data().nanos;
            guest.write(time, &nanos.to_le_bytes())?;
            Ok(OK)
        }
    );
    define!(linker, "wasi_snapshot_preview1", random_get, |guest, buffer: u32, size: u32| {
        let bytes: Vec<u8> = (0..size).map(|_| draw(&mut guest.data_mut().drawn)).collect();
        guest.write(buffer, &bytes)?;
        Ok(OK)
    });
    define!(
        linker,
        "wasi_snapshot_preview1",
        fd_write,
        |guest, _file: u32, parts: u32, count: u32, _written: u32| {
            let number = |address| {
                let bytes = guest.read(address, 4).try_into().expect("four bytes");
                u32::from_le_bytes(bytes)
            };
            let parts =
                (0..count).map(|part| guest.read(number(parts + 8 * part), number(parts + 8 * part + 4)));
            let text = parts.collect::<Vec<_>>().concat();
            // Only a panic writes to a file.
            Err(Error::new(String::from_utf8_lossy(&text).into_owned()))
        }
    );
    define!(linker, "wasi_snapshot_preview1", environ_sizes_get, |guest, count: u32, size: u32| {
        let (variables, bytes) = {
            let environment = &guest.data().environment;
            (environment.len(), environment.iter().map(|variable| variable.len() + 1).sum::<usize>())
        };
        guest.write(count, &(variables as u32).to_le_bytes())?;
        guest.write(size, &(bytes as u32).to_le_bytes())?;
        Ok(OK)
    });
    define!(linker, "wasi_snapshot_preview1", environ_get, |guest, pointers: u32, buffer: u32| {
        let (mut pointer, mut place) = (pointers, buffer);
        for variable in guest.data().environment.clone() {
            guest.write(pointer, &place.to_le_bytes())?;
            let text = [variable.as_bytes(), b"\0"].concat();
            guest.write(place, &text)?;
            pointer += 4;
            place += text.len() as u32;
        }
        Ok(OK)
    });
    Ok(())
}

/// Bytes that look random and are the same in every run.
pub fn draw(state: &mut u64) -> u8 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 56) as u8
}

fn serialise(pairs: &Pairs) -> Vec<u8> {
    let mut bytes = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        bytes.extend((name.len() as u32).to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
    }
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text);
        bytes.push(0);
    }
    bytes
}

fn parse(bytes: &[u8]) -> Pairs {
    let number = |place: usize| {
        let bytes = bytes[place..place + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let count = number(0);
    let mut place = 4 + 8 * count;
    let mut text = |size: usize| {
        let text = bytes[place..place + size].to_vec();
        place += size + 1;
        text
    };
    let sizes = (0..count).map(|pair| (number(4 + 8 * pair), number(8 + 8 * pair)));
    sizes.map(|(name, value)| (text(name), text(value))).collect()
}
