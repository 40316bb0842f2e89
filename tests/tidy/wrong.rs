//! The check of rooms, tested on small crates with faults.

use crate::rooms::{Order, diagram, faults};
use crate::source::{Files, Rooms};

/// A crate named `house`, of files by their paths below its `src`.
fn house(files: &[(&str, &str)]) -> Rooms {
    let files: Files =
        files.iter().map(|(path, text)| (format!("src/house/src/{path}"), (*text).to_owned())).collect();
    Rooms::read("house", &files)
}

/// A crate of `hall` and `yard`, with this text in `hall`.
fn hall(text: &str) -> Rooms {
    house(&[("lib.rs", "mod hall; mod yard; pub use yard::Tree;"), ("hall.rs", text), ("yard.rs", "")])
}

#[track_caller]
fn assert_fault(order: &Order, rooms: &Rooms, parts: &[&str]) {
    let faults = faults("house", order, rooms);
    let is_told = |part: &&str| faults.iter().any(|fault| fault.contains(*part));
    assert!(faults.len() == 1 && parts.iter().all(is_told), "{faults:#?}");
}

#[test]
fn every_form_of_use_counts_as_a_dependence() {
    for text in [
        "use crate::yard;",
        "use crate::yard::Tree;",
        "use crate::yard::*;",
        "pub(crate) use crate::{yard as garden};",
        "use crate::{\n    hall::Door,\n    yard::{self, Tree},\n};",
        "use crate::Tree;",
        "use crate::Tree as Oak;",
        "use super::yard::Tree;",
        "use super::{yard::Tree};",
        "fn walk() { crate::yard::walk(); }",
        "fn walk() -> super::yard::Tree { grow() }",
        "fn walk() { println!(\"{}\", crate::yard::walk()); }",
        "fn walk() { list::<crate::yard::Tree>(); }",
        "impl std::fmt::Display for crate::yard::Tree {}",
        "macro_rules! walk { () => { $crate::yard::walk() } }",
        "mod door { mod lock { use super::super::super::yard::Tree; } }",
        "#[cfg(any(test, feature = \"garden\"))] use crate::yard::Tree;",
        "#[cfg(not(test))] use crate::yard::Tree;",
        "#[cfg(test)] mod tests { } use crate::yard::Tree;",
    ] {
        let order = Order::Listed(&["hall", "yard"]);
        assert_fault(&order, &hall(text), &["src/house/src/hall.rs:1: hall uses yard"]);
        assert_eq!(faults("house", &Order::Listed(&["yard", "hall"]), &hall(text)), [""; 0], "{text}");
    }
}

#[test]
fn uses_within_a_room_or_in_tests_are_ignored() {
    for text in [
        "mod door { use super::Lock; use crate::hall::Lock; }",
        "use self::door::Lock; use std::fmt; use elsewhere::yard::Tree;",
        "fn walk(crate_yard: u8) { house::paint(); }",
        "// use crate::yard;\nconst TEXT: &str = \"use crate::yard;\";",
        "/// As [`crate::yard::walk`] does.\nfn walk() {}",
        "#[cfg(test)] mod tests { use crate::yard::Tree; }",
        "#[cfg(test)] #[allow(dead_code)] mod tests { use super::super::yard::Tree; }",
        "#[cfg(test)] mod tests;",
        "#[cfg(test)] use crate::yard::Tree;",
        "#[cfg(all(test, unix))] fn walk() { crate::yard::walk() }",
    ] {
        assert!(hall(text).arrows.is_empty(), "{text}");
        assert_eq!(faults("house", &Order::Listed(&["hall", "yard"]), &hall(text)), [""; 0], "{text}");
    }
}

#[test]
fn files_below_a_room_belong_to_it() {
    let rooms = house(&[
        ("lib.rs", "pub mod hall; pub mod yard;"),
        ("hall.rs", "mod door;"),
        ("hall/door.rs", "mod lock;"),
        ("hall/door/lock.rs", "\nuse crate::yard::Tree;"),
        ("yard.rs", ""),
    ]);
    let order = Order::Listed(&["hall", "yard"]);
    assert_fault(&order, &rooms, &["src/house/src/hall/door/lock.rs:2: hall uses yard"]);
}

#[test]
fn a_program_and_its_library_are_one_crate() {
    let rooms = house(&[
        ("main.rs", "mod hall;"),
        ("lib.rs", "pub mod yard;"),
        ("hall.rs", "use house::yard::Tree;"),
        ("yard.rs", ""),
    ]);
    assert_fault(&Order::Listed(&["hall", "yard"]), &rooms, &["hall.rs:1: hall uses yard"]);
}

#[test]
fn uses_of_no_known_room_are_refused() {
    for text in ["use crate::*;", "use super::*;", "use super as all;", "fn walk() { crate::walk() }"] {
        assert_fault(
            &Order::Listed(&["yard", "hall"]),
            &hall(text),
            &["hall.rs:1: ", "names no room of house"],
        );
    }
    let lacking = house(&[("lib.rs", "mod hall;")]);
    assert_fault(&Order::Listed(&["hall"]), &lacking, &["hall.rs: is declared and not there"]);
    let broken = house(&[("lib.rs", "mod hall;"), ("hall.rs", "fn walk( {")]);
    assert_fault(&Order::Listed(&["hall"]), &broken, &["hall.rs: can't be read"]);
}

#[test]
fn the_table_names_each_room_once_and_no_other() {
    assert_fault(&Order::Listed(&["hall"]), &hall(""), &["house: yard is not in the table"]);
    assert_fault(&Order::Named(&[("hall", &[])]), &hall(""), &["house: yard is not in the table"]);
    assert_fault(
        &Order::Listed(&["hall", "yard", "attic"]),
        &hall(""),
        &["the table has attic, which is no room"],
    );
    assert_fault(&Order::Listed(&["hall", "yard", "hall"]), &hall(""), &["the table has hall twice"]);
}

#[test]
fn named_arrows_are_all_needed_and_no_other_is_allowed() {
    let rooms = hall("use crate::yard::Tree;");
    assert_eq!(faults("house", &Order::Named(&[("hall", &["yard"]), ("yard", &[])]), &rooms), [""; 0]);
    assert_fault(&Order::Named(&[("hall", &[]), ("yard", &[])]), &rooms, &["hall.rs:1: hall uses yard"]);
    let order = Order::Named(&[("hall", &["yard"]), ("yard", &["hall"])]);
    assert_fault(&order, &rooms, &["house: yard does not use hall"]);
}

fn circle() -> Rooms {
    house(&[
        ("lib.rs", "mod hall; mod yard; mod shed; mod gate;"),
        ("hall.rs", "use crate::shed;"),
        ("shed.rs", "use crate::yard;"),
        ("yard.rs", "use crate::{hall, gate};"),
        ("gate.rs", ""),
    ])
}

#[test]
fn a_circle_is_refused_whatever_the_table_says() {
    let order =
        Order::Named(&[("hall", &["shed"]), ("shed", &["yard"]), ("yard", &["gate", "hall"]), ("gate", &[])]);
    let circle_and_places = "house: hall → shed → yard → hall is a circle (src/house/src/hall.rs:1, src/house/src/shed.rs:1, \
                             src/house/src/yard.rs:1)";
    assert_fault(&order, &circle(), &[circle_and_places]);
}

#[test]
fn a_circle_inside_a_room_is_refused() {
    for (door, lock) in [
        ("use super::lock::Lock;", "use super::door::Door;"),
        ("use crate::hall::lock::Lock;", "use crate::hall::{Door};"),
        ("use super::Lock;", "mod key { use super::super::door::Door; }"),
    ] {
        let rooms = house(&[
            ("lib.rs", "mod hall;"),
            ("hall.rs", "mod door; mod lock; use door::Door; pub use self::lock::Lock;"),
            ("hall/door.rs", door),
            ("hall/lock.rs", lock),
        ]);
        let circle = "hall::door → hall::lock → hall::door is a circle (src/house/src/hall/door.rs:1";
        assert_fault(&Order::Listed(&["hall"]), &rooms, &[circle]);
    }
    // A module and the modules inside it count as one.
    let text = "mod door { use super::Hall; use super::lock; } mod lock { use super::Hall; } use door::Door;";
    assert_eq!(faults("house", &Order::Listed(&["hall", "yard"]), &hall(text)), [""; 0]);
}

#[test]
fn a_graph_leaves_out_what_longer_ways_show() {
    let rooms = house(&[
        ("lib.rs", "mod hall; mod yard; mod shed; mod gate;"),
        ("hall.rs", "use crate::{shed, yard};"),
        ("shed.rs", "use crate::yard;"),
        ("yard.rs", ""),
        ("gate.rs", ""),
    ]);
    let graph =
        "### house\n\n```mermaid\nflowchart LR\n    gate\n    hall --> shed\n    shed --> yard\n```\n";
    assert_eq!(diagram("house", rooms), graph);
    assert!(
        diagram("house", circle()).contains("hall --> shed\n    shed --> yard\n    yard --> gate & hall\n")
    );
}
