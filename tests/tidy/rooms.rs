//! The table of rooms: the top-level modules of each crate, and which others each may use. No circles are allowed, not
//! even between modules inside one room, and there are no exceptions.

use crate::source::Rooms;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

/// What the rooms of a crate may use.
pub enum Order {
    /// Each room may use those before it.
    Listed(&'static [&'static str]),
    /// Each room may use those listed after it, and must use all of them.
    Named(&'static [(&'static str, &'static [&'static str])]),
}
use Order::{Listed, Named};

pub const TABLE: &[(&str, Order)] = &[
    (
        "protocol",
        Listed(&[
            "text", "credits", "time", "uuid", "id", "reason", "problem", "api_key", "session", "key",
            "audit", "lines", "packed", "lease", "filter", "admin",
        ]),
    ),
    (
        "policy",
        Listed(&[
            "value",
            "reason",
            "ordered",
            "plain",
            "json",
            "credential",
            "session",
            "document",
            "yaml",
            "limit",
            "scope",
            "price",
            "tool",
            "reading",
            "http",
            "oauth",
            "mcp",
            "window",
            "outage",
            "unknown_keys",
            "ids_in_use",
            "lease",
            "key",
            "key_table",
            "rules",
            "gate_tools",
            "authorize",
            "exchange",
            "records",
        ]),
    ),
    (
        "gate",
        Listed(&[
            "lock",
            "config",
            "calls",
            "host",
            "served",
            "metrics",
            "shared",
            "reach",
            "windows",
            "lease_slots",
            "feed",
            "report",
            "ids_in_use",
            "in_progress",
            "worker",
            "stream",
        ]),
    ),
    ("filter", Listed(&["context", "host", "stream", "root"])),
    (
        "native",
        Listed(&[
            "abi", "current", "faults", "shared", "stats", "inbox", "envoy", "runtime", "exchange", "entry",
        ]),
    ),
    ("client", Listed(&["error", "tls", "export", "transport", "calls"])),
    ("cli", Listed(&["signals", "output", "mcp", "stack", "commands"])),
    (
        "ledger",
        Named(&[
            ("moment", &[]),
            ("model", &[]),
            ("book", &[]),
            ("metrics", &["book"]),
            ("transaction", &["model", "book"]),
            ("identity", &["model", "transaction"]),
            ("limits", &["model", "transaction"]),
            ("money", &["limits", "model", "book", "transaction"]),
            ("audit", &["model", "transaction"]),
            ("deliveries", &["money", "model", "transaction"]),
            ("store", &["model", "book", "metrics", "transaction"]),
            ("policies", &["model", "metrics", "store", "transaction"]),
            (
                "background",
                &[
                    "identity",
                    "money",
                    "audit",
                    "policies",
                    "model",
                    "metrics",
                    "moment",
                    "store",
                    "transaction",
                ],
            ),
            (
                "http",
                &[
                    "identity",
                    "money",
                    "limits",
                    "audit",
                    "policies",
                    "deliveries",
                    "model",
                    "book",
                    "metrics",
                    "moment",
                    "store",
                    "transaction",
                ],
            ),
            (
                "service",
                &[
                    "identity",
                    "money",
                    "audit",
                    "policies",
                    "deliveries",
                    "model",
                    "metrics",
                    "moment",
                    "store",
                    "transaction",
                    "background",
                    "http",
                ],
            ),
        ]),
    ),
];

/// The faults in a crate's rooms.
pub fn faults(name: &str, order: &Order, rooms: &Rooms) -> Vec<String> {
    let mut faults = rooms.faults.clone();
    faults.extend(circles(rooms).iter().map(|circle| {
        let places: Vec<&str> = circle.windows(2).map(|pair| rooms.place(&pair[0], &pair[1])).collect();
        format!(
            "{name}: {} is a circle ({}): move what two of them need into a module of its own, or hand it in",
            circle.join(" → "),
            places.join(", ")
        )
    }));
    let listed: Vec<&str> = match order {
        Order::Listed(list) => list.to_vec(),
        Order::Named(rows) => rows.iter().map(|(room, _)| *room).collect(),
    };
    for (row, room) in listed.iter().enumerate() {
        if !rooms.names.contains(*room) {
            faults.push(format!("{name}: the table has {room}, which is no room: remove it"));
        } else if listed[..row].contains(room) {
            faults.push(format!("{name}: the table has {room} twice: remove one"));
        }
    }
    for room in rooms.names.iter().filter(|room| !listed.contains(&room.as_str())) {
        faults.push(format!("{name}: {room} is not in the table: say there what it may use"));
    }
    for ((user, used), place) in &rooms.arrows {
        let may = match order {
            Order::Listed(list) => {
                let place = |room: &String| list.iter().position(|listed| listed == room);
                place(used) < place(user)
            }
            Order::Named(rows) => rows.iter().any(|(room, may)| room == user && may.contains(&used.as_str())),
        };
        if !may && listed.contains(&user.as_str()) {
            faults.push(format!(
                "{place}: {user} uses {used}, which the table does not allow: move the code, or change the table, which is a \
                 change of design"
            ));
        }
    }
    if let Order::Named(rows) = order {
        for (user, used) in rows.iter().flat_map(|(room, may)| may.iter().map(move |used| (room, used))) {
            if !rooms.arrows.contains_key(&((*user).to_owned(), (*used).to_owned())) {
                faults.push(format!(
                    "{name}: {user} does not use {used}, which the table allows: remove it there"
                ));
            }
        }
    }
    faults
}

/// The shortest circle through each arrow that is in one, starting and ending at its first room by name.
fn circles(rooms: &Rooms) -> BTreeSet<Vec<String>> {
    let mut circles = BTreeSet::new();
    for (user, used) in rooms.arrows.keys() {
        if let Some(mut circle) = shortest_path(rooms, used, user) {
            let least = circle.iter().enumerate().min_by_key(|(_, room)| *room).map_or(0, |(place, _)| place);
            circle.rotate_left(least);
            circle.push(circle[0].clone());
            circles.insert(circle);
        }
    }
    circles
}

/// The shortest path along the arrows, with both ends.
fn shortest_path(rooms: &Rooms, from: &str, to: &str) -> Option<Vec<String>> {
    let mut reached = BTreeMap::from([(from, from)]);
    let mut next = VecDeque::from([from]);
    while let Some(room) = next.pop_front() {
        if room == to {
            let before = |room: &&str| Some(reached[room]).filter(|before| before != room);
            let mut way: Vec<String> = std::iter::successors(Some(room), before).map(str::to_owned).collect();
            way.reverse();
            return Some(way);
        }
        for used in rooms.used(room) {
            if !reached.contains_key(used) {
                reached.insert(used, room);
                next.push_back(used);
            }
        }
    }
    None
}

/// A graph of the rooms for `docs/architecture.md`. An arrow is left out if other arrows lead to the same room.
pub fn diagram(name: &str, mut rooms: Rooms) -> String {
    rooms.arrows.retain(|(user, _), _| rooms.names.contains(user));
    for (arrow, place) in rooms.arrows.clone() {
        rooms.arrows.remove(&arrow);
        if shortest_path(&rooms, &arrow.0, &arrow.1).is_none() {
            rooms.arrows.insert(arrow, place);
        }
    }
    let mut graph = format!("### {name}\n\n```mermaid\nflowchart LR\n");
    for user in &rooms.names {
        let used: Vec<&str> = rooms.used(user).collect();
        let is_used = rooms.arrows.keys().any(|(_, used)| used == user);
        match used.is_empty() {
            true if is_used => {}
            true => writeln!(graph, "    {user}").expect("text can be written"),
            false => writeln!(graph, "    {user} --> {}", used.join(" & ")).expect("text can be written"),
        }
    }
    graph + "```\n"
}
